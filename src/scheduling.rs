//! How the kernel schedules the threads of this library that wait for something to happen and then have little to do.
//!
//! Under EEVDF a thread that wakes up runs before one that computes only if its deadline is earlier, and its deadline is
//! as far away as its *slice* is long: with the usual 3 ms, and a tick of 4 ms, a death would be noticed milliseconds late
//! on a node whose CPUs are busy. From Linux 6.12 on a thread may ask for a shorter slice of its own, without privileges:
//! it then comes sooner and has its share of the CPU in smaller pieces. Its share is the same; nobody is starved.

#![allow(unsafe_code, reason = "the system call has no wrapper in rustix")]

/// The shortest slice that Linux grants.
const SHORTEST_SLICE_NS: u64 = 100_000;

/// Has the calling thread run soon after each time that it wakes up. Where the kernel knows no slices (before 6.12),
/// refuses, or schedules this thread by another policy, nothing changes.
pub fn wake_soon() {
    // SAFETY: all zeros are a valid `sched_attr`, which is plain numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: 0 is the calling thread; the kernel writes `size` bytes at most, which are the struct's.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 || attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return;
    }
    attributes.sched_runtime = SHORTEST_SLICE_NS;
    // SAFETY: 0 is the calling thread; the kernel reads the struct, whose size is in it.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_asks_has_a_short_slice_or_the_one_that_it_had() {
        let thread = std::thread::spawn(|| {
            let before = slice_ns();
            wake_soon();
            (before, slice_ns())
        });
        let (before, after) = thread.join().expect("it ends");
        assert!(after == SHORTEST_SLICE_NS || after == before, "{before} ns became {after} ns");
    }

    fn slice_ns() -> u64 {
        // SAFETY: as in `wake_soon`.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: as in `wake_soon`.
        unsafe {
            libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>(), 0);
        }
        attributes.sched_runtime
    }
}
