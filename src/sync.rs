//! The atomics that every other file of the library uses.
//!
//! In a normal build these are the atomics of `core`. In a model build (`--cfg model`, see CONTRIBUTING.md) they are
//! loom's or shuttle's, so that the same primitives run under a model checker. No other file names an atomic type of
//! `core` or `std`; `scripts/tidy` checks that.
//!
//! Two orderings that the primitives need have no name in the language's model that is both exact and cheap, so they
//! live here as functions, each with its reason.

#[cfg(not(model))]
pub use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
#[cfg(model = "loom")]
pub use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(model = "shuttle")]
pub use shuttle::sync::atomic::{AtomicU64, Ordering};

/// Stores `value` with release ordering and makes the store visible before any later load of this thread.
///
/// A release store alone may still wait in the store buffer while later loads run ahead of it (Dekker's trap: two
/// ranks each publish and each read the other's old word). Everything that publishes and then looks (arriving and then
/// looking for sleepers, withdrawing and then looking for arrivals) goes through here; the partner is the same
/// function, or [`full_fence`], on the other side.
///
/// # Cost
///
/// One locked exchange on x86-64, a store and a full fence elsewhere.
#[inline]
pub fn publish(word: &AtomicU64, value: u64) {
    // On x86-64 a locked exchange is a full fence (Intel SDM vol. 3A 9.2.3.9, AMD APM vol. 2 7.4.2) and cheaper than
    // `mov` + `mfence`; being an acquire operation too, the compiler moves no later load above it.
    #[cfg(all(target_arch = "x86_64", not(model)))]
    word.swap(value, Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(model))))]
    {
        word.store(value, Ordering::Release);
        full_fence();
    }
}

/// A full fence: every earlier access of this thread is ordered before every later one.
#[inline]
pub fn full_fence() {
    #[cfg(not(model))]
    core::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(model = "loom")]
    loom::sync::atomic::fence(Ordering::SeqCst);
    // shuttle runs every schedule sequentially consistent, so it needs (and has) no fence.
}

/// A full fence that follows a successful read-modify-write with nothing in between.
///
/// On x86-64 that instruction was locked and is the fence already (see [`publish`]).
#[inline]
pub fn full_fence_after_rmw() {
    #[cfg(not(all(target_arch = "x86_64", not(model))))]
    full_fence();
    #[cfg(all(target_arch = "x86_64", not(model)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Orders two passes of acquire loads over the same words, so that equal results mean that all the words had these
/// values at one instant between the passes.
///
/// x86-64 and AArch64 are multi-copy atomic and keep acquire loads in order, so there the compiler alone must be held
/// back; elsewhere, and under loom, it takes the full fence (read-to-write causality, "RWC").
#[inline]
pub fn snapshot_fence() {
    #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(model)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(model))))]
    full_fence();
}

/// One turn of a spin loop: tells the CPU (or the model's scheduler) that this thread waits for another.
#[inline]
pub fn spin_hint() {
    #[cfg(not(model))]
    core::hint::spin_loop();
    #[cfg(model = "loom")]
    loom::thread::yield_now();
    #[cfg(model = "shuttle")]
    shuttle::thread::yield_now();
}
