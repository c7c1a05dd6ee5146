//! CPUs, which of them this process may use and how much of them, and what reads the time.

use phalanx::clock::{Clock, ClockSource};
use phalanx::machine::{self, CpuSet, MASK_CPUS};

use super::check::{Area, Check, Status};
use super::root::Root;

const CPU: &str = "sys/devices/system/cpu";
const CLOCK: &str = "sys/devices/system/clocksource/clocksource0";
/// A reading of the clock that the kernel serves without a system call costs less than this on any machine of today.
const SYSTEM_CALL_NS: f64 = 90.0;

pub fn checks(root: &Root) -> Vec<Check> {
    let usable = CpuSet::of_this_thread();
    let online = root.read(&format!("{CPU}/online")).and_then(|list| parse_list(&list));
    vec![
        cpus(root, &usable, online.as_ref()),
        affinity(&usable, online.as_ref(), cpus_of_group(root).as_ref()),
        quota(&usable, machine::cpu_quota(), root.exists("proc/self/cgroup")),
        clock(root, &Clock::calibrate()),
    ]
}

fn cpus(root: &Root, usable: &CpuSet, online: Option<&CpuSet>) -> Check {
    let model = ["model name", "Model", "cpu"].iter().find_map(|name| root.field("proc/cpuinfo", name));
    let numa_nodes = root.read("sys/devices/system/node/online").and_then(|list| parse_list(&list));
    let numa_nodes = numa_nodes.map(|nodes| nodes.count());
    let caches = caches_of(usable);
    let has_siblings = root.read(&format!("{CPU}/smt/active")).map(|active| active == "1");
    let online = online.map(CpuSet::count);
    let found = format!(
        "{} × {}; NUMA nodes: {}; last-level caches: {caches}{}",
        or_unknown(online),
        model.as_deref().unwrap_or("an unknown model"),
        or_unknown(numa_nodes),
        if has_siblings == Some(true) { "; two or more share a core" } else { "" },
    );
    let check = Check::new(Area::Cpu, "cpus")
        .found(found)
        .fact("online", online)
        .fact("usable", usable.count())
        .fact("model", model)
        .fact("numa_nodes", numa_nodes)
        .fact("last_level_caches", caches)
        .fact("hyper_threads", has_siblings);
    if usable.count() <= 1 {
        return check
            .status(Status::Note)
            .meaning("Two or more ranks here take turns on the only CPU: each barrier costs context switches.");
    }
    check.meaning("A rank that has a CPU of its own waits by spinning and passes in the time of a cache line's way.")
}

/// How many last-level caches these CPUs have, as far as the library can tell them apart.
fn caches_of(cpus: &CpuSet) -> usize {
    let place = |cpu| {
        let mut only = CpuSet::EMPTY;
        only.insert(cpu);
        machine::place_of(&only)
    };
    let mut places: Vec<_> = cpus.iter().map(place).collect();
    places.sort_unstable();
    places.dedup();
    places.len()
}

fn affinity(usable: &CpuSet, online: Option<&CpuSet>, of_group: Option<&CpuSet>) -> Check {
    let check = Check::new(Area::Cpu, "affinity")
        .fact("usable", usable.count())
        .fact("usable_list", list(usable))
        .fact("online_list", online.map(list))
        .fact("cpuset_list", of_group.map(list));
    let Some(online) = online.filter(|online| online.count() > usable.count()) else {
        return check
            .found(format!("may run on all CPUs that there are: {}", list(usable)))
            .meaning("Phalanx counts on all of them when it chooses how to meet and how to wait.");
    };
    let check = check
        .status(Status::Note)
        .found(format!("may run on {} of {} CPUs: {}", usable.count(), online.count(), list(usable)))
        .meaning("More ranks than these take turns, and each barrier then costs context switches.");
    match of_group {
        Some(group) if group.count() <= usable.count() => {
            check.remedy("ask the batch system for more CPUs; Docker: docker update --cpuset-cpus LIST CONTAINER")
        }
        _ => check.remedy(format!("taskset --cpu-list {} phalanx run -n N -- PROGRAM", list(online))),
    }
}

fn quota(usable: &CpuSet, quota: Option<f64>, is_known: bool) -> Check {
    let check = Check::new(Area::Cpu, "quota").fact("cpus", quota).fact("usable", usable.count());
    match quota {
        None if !is_known => check
            .status(Status::Note)
            .found("unknown: this process's control group cannot be read")
            .meaning("If there is one and it is less than the ranks use, they are stopped now and then for a while."),
        None => check.found("none").meaning("Ranks may use their CPUs the whole time."),
        Some(quota) if quota >= usable.count() as f64 => check
            .found(format!("{quota:.2} CPUs, no less than the {} usable ones", usable.count()))
            .meaning("Ranks may use their CPUs the whole time."),
        Some(quota) => check
            .status(Status::Warning)
            .found(format!("{quota:.2} of {} usable CPUs", usable.count()))
            .meaning(
                "With more ranks than this, waiting ranks sleep instead of spinning, lest the kernel stop them all \
                 for the rest of each period.",
            )
            .remedy(format!(
                "docker update --cpus {cpus} CONTAINER; or: systemctl set-property --runtime UNIT CPUQuota={cpus}00%",
                cpus = usable.count()
            )),
    }
}

fn clock(root: &Root, clock: &Clock) -> Check {
    let of_kernel = root.read(&format!("{CLOCK}/current_clocksource"));
    let available = root.read(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let available: Vec<&str> = available.split_whitespace().collect();
    let reading_ns = clock.overhead_ns();
    let is_counter = clock.source() == ClockSource::Counter;
    let what = if is_counter { "the CPU's counter" } else { "CLOCK_MONOTONIC" };
    let check = Check::new(Area::Cpu, "clock")
        .found(format!(
            "{what}, {reading_ns:.0} ns a reading; the kernel keeps time by {}",
            of_kernel.as_deref().unwrap_or("an unknown source")
        ))
        .fact("source", if is_counter { "counter" } else { "monotonic" })
        .fact("reading_ns", (reading_ns * 10.0).round() / 10.0)
        .fact("ns_per_tick", clock.ns_per_tick())
        .fact("kernel", of_kernel)
        .fact("available", available.clone());
    if is_counter {
        return check.meaning("Knowing who came last and who waits costs each barrier next to nothing.");
    }
    let is_slow = reading_ns > SYSTEM_CALL_NS;
    let check = check
        .status(if is_slow { Status::Warning } else { Status::Note })
        .meaning(format!("Each barrier reads the clock twice, and so pays about {:.0} ns for it.", reading_ns * 2.0));
    match ["tsc", "arch_sys_counter"].iter().find(|source| available.contains(source)) {
        Some(source) => check.remedy(format!("echo {source} | sudo tee /{CLOCK}/current_clocksource")),
        None => check,
    }
}

/// The CPUs that the control group allows, of version 2 or 1.
fn cpus_of_group(root: &Root) -> Option<CpuSet> {
    let groups = root.read("proc/self/cgroup")?;
    let list = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_matches('/'));
        match controllers {
            "" => nearest(root, "sys/fs/cgroup", path, "cpuset.cpus.effective"),
            _ if controllers.split(',').any(|controller| controller == "cpuset") => {
                nearest(root, "sys/fs/cgroup/cpuset", path, "cpuset.effective_cpus")
            }
            _ => None,
        }
    });
    parse_list(&list?)
}

/// A group's file, or that of the nearest group above it that has one.
fn nearest(root: &Root, mount: &str, group: &str, file: &str) -> Option<String> {
    let mut group = group;
    loop {
        if let Some(text) = root.read(&format!("{mount}/{group}/{file}")) {
            return Some(text);
        }
        if group.is_empty() {
            return None;
        }
        group = group.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

/// `0-3,8`, as the kernel writes sets. `None` if it is no such list, or an empty one.
fn parse_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::EMPTY;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first..=last.min(MASK_CPUS)).for_each(|cpu| set.insert(cpu));
    }
    (set.count() > 0).then_some(set)
}

fn list(set: &CpuSet) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in set.iter() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

fn or_unknown(number: Option<usize>) -> String {
    number.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::root::made_up::Machine;
    use super::*;

    fn set(text: &str) -> CpuSet {
        parse_list(text).expect("a list")
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        for text in ["0", "0-3", "0-3,8,10-11", "5,1023"] {
            assert_eq!(list(&set(text)), text);
        }
        assert_eq!(list(&set("1000-99999999999")), "1000-1023");
        for nonsense in ["", "a", "1-", "-1", "3-1", "1,,2"] {
            assert_eq!(parse_list(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn fewer_cpus_than_there_are_is_a_note_whose_remedy_depends_on_who_took_them() {
        let (few, all) = (set("0-1"), set("0-7"));
        let taken_by_mask = affinity(&few, Some(&all), Some(&all));
        assert_eq!(taken_by_mask.status, Status::Note);
        assert!(taken_by_mask.remedy.expect("one").starts_with("taskset --cpu-list 0-7"));
        assert!(affinity(&few, Some(&all), Some(&few)).remedy.expect("one").contains("cpuset-cpus"));
        assert_eq!(affinity(&all, Some(&all), None).status, Status::Ok);
        assert_eq!(affinity(&few, None, None).status, Status::Ok, "what there is, is not known");
    }

    #[test]
    fn a_quota_below_the_usable_cpus_is_a_warning() {
        let two = set("0-1");
        assert_eq!(quota(&two, Some(1.5), true).status, Status::Warning);
        assert_eq!(quota(&two, Some(2.0), true).status, Status::Ok);
        assert_eq!(quota(&two, None, true).status, Status::Ok);
        assert_eq!(quota(&two, None, false).status, Status::Note);
    }

    #[test]
    fn a_clock_that_is_a_system_call_has_the_remedy_that_the_kernel_offers() {
        let monotonic = Clock::from_parts(2, 1.0f64.to_bits(), 0).expect("a clock");
        let machine = Machine::new("clock")
            .with(&format!("{CLOCK}/current_clocksource"), "hpet")
            .with(&format!("{CLOCK}/available_clocksource"), "hpet tsc acpi_pm");
        let check = clock(&machine.root, &monotonic);
        assert_ne!(check.status, Status::Ok);
        assert!(check.remedy.expect("one").starts_with("echo tsc | sudo tee /sys/"));
        let nothing = Machine::new("no-clock");
        let check = clock(&nothing.root, &monotonic);
        assert!(check.found[0].ends_with("an unknown source"));
        assert_eq!(check.remedy, None);
    }

    #[test]
    fn the_cpus_of_a_group_are_its_own_or_those_above_it() {
        let version_2 = Machine::new("group-2")
            .with("proc/self/cgroup", "0::/a/b")
            .with("sys/fs/cgroup/a/cpuset.cpus.effective", "0-3");
        assert_eq!(cpus_of_group(&version_2.root), Some(set("0-3")));
        let version_1 = Machine::new("group-1")
            .with("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuset:/job")
            .with("sys/fs/cgroup/cpuset/job/cpuset.effective_cpus", "2");
        assert_eq!(cpus_of_group(&version_1.root), Some(set("2")));
        assert_eq!(cpus_of_group(&Machine::new("no-group").root), None);
    }
}
