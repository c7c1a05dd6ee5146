//! The simulated barrier: its times are the formula's, its promises hold whatever goes wrong, its failures repeat.

use phalanx::coord::barrier::spanning::schedule::Costs;
use phalanx::fabric::sim::{Jitter, Seeded};
use phalanx_bench::simulate::{Scenario, SimulationError, study, svg};

/// What no jitter, gap or neighbour disturbs takes what the formula says by which the library chooses its radix.
#[test]
fn a_calm_barrier_takes_what_the_formula_says() {
    for nodes in [1, 2, 3, 7, 16, 64, 100, 1000] {
        for radix in [2, 3, 8, 64] {
            let scenario = Scenario { barriers: 3, ..Scenario::new(nodes, radix) };
            let outcome = scenario.run().expect("nothing is wrong");
            let expected =
                outcome.schedule.cost_ns(&Costs { latency_ns: 900.0, overhead_ns: 40.0, nodes_per_cpu: 0.0 });
            assert_eq!(outcome.mean_ns, expected, "{nodes} nodes, radix {radix}");
            assert_eq!(outcome.max_ns as f64, expected, "{nodes} nodes, radix {radix}");
            assert_eq!(outcome.messages_per_node, outcome.schedule.messages() as f64);
        }
    }
}

#[test]
fn neighbours_and_lateness_cost_what_they_are_said_to() {
    let alone = Scenario { ranks_per_node: 1, ..Scenario::new(16, 4) };
    let alone_ns = alone.run().expect("nothing is wrong").max_ns;
    for ranks_per_node in [2, 8, 12] {
        let scenario = Scenario { ranks_per_node, local_ns: 70, ..alone.clone() };
        let outcome = scenario.run().expect("nothing is wrong");
        assert_eq!(outcome.max_ns, alone_ns + 70 * ranks_per_node as u64, "each arrival, and the release");
    }
    let late = Scenario { skew: Jitter::Uniform { most_ns: 1_000_000 }, barriers: 10, ..alone };
    let outcome = late.run().expect("nothing is wrong");
    assert!(outcome.period_ns > 500_000.0, "who waits for the last of 16 waits for long: {}", outcome.period_ns);
    assert!(outcome.max_ns <= alone_ns, "a wait is counted from the last arrival: {}", outcome.max_ns);
}

#[test]
fn nodes_that_share_cpus_wait_for_each_other() {
    let own = Scenario {
        costs: phalanx::fabric::sim::Costs { overhead_ns: 1000, ..Default::default() },
        ..Scenario::new(8, 2)
    };
    let period = |cpus| Scenario { cpus, ..own.clone() }.run().expect("nothing is wrong").period_ns;
    assert_eq!(period(Some(8)), period(None));
    assert!(period(Some(2)) >= 4.0 * 3.0 * 1000.0, "a CPU posts 4 nodes' 3 messages: {}", period(Some(2)));
}

fn troubled(seed: u64) -> Scenario {
    let mut random = Seeded::new(seed);
    let nodes = 2 + random.below(20);
    let mut scenario = Scenario::new(nodes, 2 + random.below(7));
    scenario.ranks_per_node = [1, 1, 2, 5, 10][random.below(5)];
    scenario.barriers = 12;
    scenario.skew = [Jitter::None, Jitter::Uniform { most_ns: 60_000 }][random.below(2)];
    scenario.costs.jitter = [Jitter::None, Jitter::HeavyTail { mean_ns: 500, most_ns: 100_000 }][random.below(2)];
    scenario.faults = 1 + random.below(8);
    scenario.seed = seed;
    scenario
}

/// Nobody passes early, with the right word, and all pass once the network is whole.
#[test]
fn barriers_hold_whatever_the_network_does() {
    let mut messages = 0.0;
    for seed in 0..400 {
        let outcome = troubled(seed).run().unwrap_or_else(|error| panic!("{error}"));
        messages += outcome.messages_per_node - outcome.schedule.messages() as f64;
    }
    assert!(messages > 400.0, "little was lost and repaired: {messages}");
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in 0..10 {
        let run = |seed| troubled(seed).run().map(|outcome| (outcome.trace, outcome.max_ns, outcome.p50_ns));
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed), run(seed + 1000));
    }
}

#[test]
fn a_failure_names_the_command_that_repeats_it() {
    let scenario = Scenario { leaves_cut: true, seed: 99, ..Scenario::new(5, 2) };
    let Err(error @ SimulationError::Stuck { stuck: 5, .. }) = scenario.run() else { panic!("it passed a cut link") };
    let text = error.to_string();
    assert_eq!(text.lines().last(), Some(format!("to repeat: {}", scenario.command()).as_str()));
    assert!(scenario.command().ends_with("--leave-cut --seed 99 --plot none"), "{text}");
}

#[test]
fn what_cannot_be_is_refused() {
    for scenario in [
        Scenario::new(0, 2),
        Scenario::new(2, 1),
        Scenario::new(2, 65),
        Scenario { ranks_per_node: 0, ..Scenario::new(2, 2) },
        Scenario { barriers: 0, ..Scenario::new(2, 2) },
        Scenario { cpus: Some(0), ..Scenario::new(2, 2) },
    ] {
        assert!(matches!(scenario.run(), Err(SimulationError::Invalid { .. })), "{scenario:?}");
    }
}

#[test]
fn a_study_finds_the_cheapest_radix_and_draws_all() {
    let scenario = Scenario::new(64, 2);
    let reports = study::compare(&scenario, None).expect("nothing is wrong");
    let radixes: Vec<usize> = reports.iter().map(|report| report.radix).collect();
    assert_eq!(radixes, [2, 4, 8, 16, 32, 64]);
    let best: Vec<usize> = reports.iter().filter(|report| report.is_best).map(|report| report.radix).collect();
    assert_eq!(best, [8]);
    let sizes = study::over_nodes(&scenario, None, &reports).expect("nothing is wrong");
    let nodes: Vec<usize> = sizes.iter().map(|reports| reports[0].nodes).collect();
    assert_eq!(nodes, [2, 4, 16, 64]);
    let picture = svg::picture(&sizes);
    let points: usize = sizes.iter().map(Vec::len).sum();
    assert_eq!(picture.matches("<circle").count(), points);
    assert_eq!(picture.matches("<polyline").count(), 6);
    assert!(!picture.contains("NaN") && picture.ends_with("</svg>\n"));
}
