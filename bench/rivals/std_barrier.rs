//! `std::sync::Barrier` behind two C functions, so that `std_barrier.c` can measure it with the very loop that
//! measures the other rivals. Built on demand with `rustc -O --crate-type staticlib`.

use std::sync::Barrier;

/// Makes a barrier of `ranks` threads, which lives as long as the process.
#[unsafe(no_mangle)]
pub extern "C" fn std_barrier_new(ranks: usize) -> &'static Barrier {
    Box::leak(Box::new(Barrier::new(ranks)))
}

/// Waits until all the ranks of `barrier` have called this.
#[unsafe(no_mangle)]
pub extern "C" fn std_barrier_wait(barrier: &Barrier) {
    barrier.wait();
}
