//! Learning that a process dies before it is dead.
//!
//! A pidfd tells of an end when the kernel has taken the whole process down, and that lasts as long as its memory is
//! large: half a millisecond for a small one, a fifth of a second for each GB in use. Long before that, each thread
//! that dies lets go what its *robust list* names (`get_robust_list(2)`; Documentation/locking/robust-futexes.rst of
//! the kernel): the kernel marks these words, and of those who sleep on each it wakes one. So each process has a thread
//! that holds some words of shared memory, the *strands* of its *lifeline*, and others sleep on them, each on one: if
//! the kernel wakes one of them on the CPU where it goes on to free the dead one's memory, there are others.
//!
//! What a cut lifeline proves is that this thread is past its last instruction. Usually the whole process is ending,
//! and `/proc` says how already ([`ProcessId::ending`](super::ProcessId::ending)). Or it goes on as another program
//! (`execve` ends all other threads, and no pidfd tells of it). In either case another of its threads may be in the
//! middle of something on another CPU for a moment. Whoever must know that the process does nothing any more waits for
//! the pidfd.
//!
//! A strand, as the kernel defines it:
//!
//! | bits | meaning |
//! | --- | --- |
//! | 0–29 | the thread that holds it; 0: nobody does, or it was let go in good order |
//! | 30 | its thread has died |
//! | 31 | somebody may sleep on it: always set by whoever holds it, so that the kernel wakes |
#![allow(unsafe_code, reason = "the robust list is a structure that the kernel walks")]

use std::io;
use std::ptr;

use rustix::thread::futex;

pub use crate::fabric::node::STRANDS;
use crate::sync::{AtomicU32, Ordering};

/// The bits of a lifeline that name its thread.
const TID_MASK: u32 = 0x3fff_ffff;

/// `struct robust_list` of linux/futex.h: a link of a circle that begins and ends at the head.
#[repr(C)]
struct Link {
    next: *const Link,
}

/// What the kernel walks: a head, and links as far from each other as the strands are, since it finds each strand at
/// the same distance from its link.
#[repr(C)]
struct List {
    head: Head,
    links: [Link; STRANDS],
}

/// `struct robust_list_head`.
#[repr(C)]
struct Head {
    first: Link,
    /// How far behind each link its word is.
    offset: libc::c_long,
    /// A lock that is being taken or let go: none.
    pending: *const Link,
}

/// Words held by the calling thread until this is dropped, or the thread dies.
///
/// The thread must not use robust mutexes of the C library meanwhile: it has one list only. The pointers keep it on
/// this thread.
pub struct Lifeline<'memory> {
    strands: [&'memory AtomicU32; STRANDS],
    /// Where the kernel finds them; freed after it has been told to look elsewhere.
    list: *mut List,
    /// The list that the thread had before.
    before: *const Head,
}

impl<'memory> Lifeline<'memory> {
    /// Has the calling thread hold these words; whoever sleeps on one wakes.
    ///
    /// # Errors
    ///
    /// When the kernel has no robust lists, and where pointers, and so the links of its lists, are narrower than the
    /// words are far from each other.
    pub fn hold(strands: [&'memory AtomicU32; STRANDS]) -> io::Result<Self> {
        let at = |index: usize| strands[index].as_ptr().addr();
        if (0..STRANDS).any(|index| at(index) != at(0) + index * size_of::<Link>()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let before = own_list()?;
        let list = List::new(at(0));
        let lifeline = Self { strands, list, before };
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        for strand in strands {
            // SYNC POINT: lifeline. Release pairs with a vigil's look. What the thread does later only the kernel's
            // mark publishes, and nothing relies on it.
            strand.store((thread & TID_MASK) | futex::WAITERS, Ordering::Release);
        }
        // SAFETY: the list is a closed circle, and stays until `drop` has put the former list back.
        unsafe { set_own_list(list.cast()) }?;
        strands.into_iter().for_each(wake_all);
        Ok(lifeline)
    }
}

impl List {
    /// A list of words from this address on.
    fn new(first: usize) -> *mut Self {
        let links = [const { Link { next: ptr::null() } }; STRANDS];
        let head = Head { first: Link { next: ptr::null() }, offset: 0, pending: ptr::null() };
        let list = Box::into_raw(Box::new(Self { head, links }));
        // SAFETY: it was allocated above, and nobody else knows it yet.
        let List { head, links } = unsafe { &mut *list };
        let at = |index: usize| links.as_ptr().wrapping_add(index);
        let end: *const Link = &raw const head.first;
        let nexts: Vec<*const Link> = (1..STRANDS).map(at).chain([end]).collect();
        head.first.next = at(0);
        head.offset = first.wrapping_sub(at(0).addr()).cast_signed() as libc::c_long;
        links.iter_mut().zip(nexts).for_each(|(link, next)| link.next = next);
        list
    }
}

impl Drop for Lifeline<'_> {
    fn drop(&mut self) {
        // SAFETY: it is the list that the C library has set for this thread, or none.
        let is_put_back = unsafe { set_own_list(self.before) }.is_ok();
        // Release: as in `hold`.
        self.strands.iter().for_each(|strand| strand.store(0, Ordering::Release));
        if is_put_back {
            // SAFETY: it came from `Box::into_raw`, and the kernel does not look there any more.
            unsafe { drop(Box::from_raw(self.list)) };
        }
    }
}

/// Whether the thread that held a lifeline of this value has died.
pub fn is_cut(value: u32) -> bool {
    value & futex::OWNER_DIED != 0
}

/// Wakes all who sleep on a lifeline: of those the kernel wakes one only.
pub fn wake_all(word: &AtomicU32) {
    // The call fails only for an address that is not mapped.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.unsigned_abs());
}

fn own_list() -> io::Result<*const Head> {
    let (mut head, mut length) = (ptr::null::<Head>(), 0_usize);
    // SAFETY: 0 is the calling thread; the kernel writes a pointer and a length.
    let failed = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    if failed == 0 { Ok(head) } else { Err(io::Error::last_os_error()) }
}

/// # Safety
///
/// The head and its links must be valid for as long as they are this thread's list.
unsafe fn set_own_list(head: *const Head) -> io::Result<()> {
    // SAFETY: the kernel keeps the pointer, and follows it when the thread dies; valid, as the caller says.
    let failed = unsafe { libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as a segment has them: of 8 bytes each, of which a half is used.
    #[derive(Default)]
    struct Words([[AtomicU32; 2]; STRANDS]);

    impl Words {
        fn strands(&self) -> [&AtomicU32; STRANDS] {
            std::array::from_fn(|index| &self.0[index][0])
        }
    }

    #[test]
    fn a_thread_that_lets_go_in_good_order_cuts_nothing() {
        let words = Words::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = own_list().expect("Linux has robust lists");
                let lifeline = Lifeline::hold(words.strands()).expect("Linux has robust lists");
                assert!(words.strands().iter().all(|strand| strand.load(Ordering::Relaxed) & TID_MASK != 0));
                drop(lifeline);
                assert_eq!(own_list().expect("as before"), before, "the C library's list is back");
            });
        });
        assert!(words.strands().iter().all(|strand| strand.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_thread_that_ends_with_it_has_died() {
        let words = Words::default();
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(Lifeline::hold(words.strands()).expect("Linux has robust lists")));
        });
        // The scope ends with the thread's closure, and the kernel marks the words when the thread itself ends.
        for strand in words.strands() {
            loop {
                let value = strand.load(Ordering::Acquire);
                if is_cut(value) {
                    break;
                }
                let _ = futex::wait(strand, futex::Flags::empty(), value, None);
            }
        }
    }
}
