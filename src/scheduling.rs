//! How the kernel schedules the threads of this library that wait for something to happen and then have little to do.
//!
//! Under EEVDF a thread that wakes up runs before one that computes only if its deadline is earlier, and its deadline
//! is as far away as its *slice* is long: with the usual 3 ms, and a tick of 4 ms, a death would be noticed
//! milliseconds late on a node whose CPUs are busy. From Linux 6.12 on a thread may ask for a shorter slice of its own,
//! without privileges: it then comes sooner and has its share of the CPU in smaller pieces. Its share is the same;
//! nobody is starved.
//!
//! | thread | its slice |
//! | --- | --- |
//! | of a caller, while it is parked in a long wait | the shortest |
//! | of this library, which watches | short |
//! | all others, those of a process that ends and has its memory freed among them | as before |
//!
//! So a survivor comes before those who have told it, and before the dead.

#![allow(unsafe_code, reason = "the system call has no wrapper in rustix")]

/// The shortest slice that Linux grants.
const SHORTEST_SLICE_NS: u64 = 100_000;
/// The slice of threads that watch.
#[cfg(not(model))]
const WATCHING_SLICE_NS: u64 = 500_000;

/// Has the calling thread run soon after each time that it wakes up. Where the kernel knows no slices (before 6.12),
/// refuses, or schedules this thread by another policy, nothing changes.
#[cfg(not(model))]
pub fn wake_soon() {
    set_slice(WATCHING_SLICE_NS);
}

/// The calling thread runs at once when it wakes up, until this is dropped; as far as the kernel can.
///
/// # Cost
///
/// Four system calls in all, about 2 µs.
pub struct Prompt {
    before: Option<u64>,
}

impl Prompt {
    pub fn new() -> Self {
        Self { before: set_slice(SHORTEST_SLICE_NS) }
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            set_slice(before);
        }
    }
}

/// Gives the calling thread another slice; what it had, if that was changed. 0 stands for the kernel's own choice.
fn set_slice(slice_ns: u64) -> Option<u64> {
    // SAFETY: all zeros are a valid `sched_attr`, which is plain numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: 0 is the calling thread; the kernel writes `size` bytes at most, which are the struct's.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 || attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return None;
    }
    let before = std::mem::replace(&mut attributes.sched_runtime, slice_ns);
    // SAFETY: 0 is the calling thread; the kernel reads the struct, whose size is in it.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    (set == 0).then_some(before)
}

#[cfg(all(test, not(model)))]
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
        assert!(after == WATCHING_SLICE_NS || after == before, "{before} ns became {after} ns");
    }

    #[test]
    fn a_thread_that_was_prompt_has_the_slice_that_it_had() {
        let thread = std::thread::spawn(|| {
            let before = slice_ns();
            let prompt = Prompt::new();
            let meanwhile = slice_ns();
            drop(prompt);
            (before, meanwhile, slice_ns())
        });
        let (before, meanwhile, after) = thread.join().expect("it ends");
        assert!(meanwhile == SHORTEST_SLICE_NS || meanwhile == before, "{before} ns became {meanwhile} ns");
        assert_eq!(after, before);
    }

    fn slice_ns() -> u64 {
        // SAFETY: as in `set_slice`.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: as in `set_slice`.
        unsafe {
            libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>(), 0);
        }
        attributes.sched_runtime
    }
}
