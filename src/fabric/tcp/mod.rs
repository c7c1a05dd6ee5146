//! TCP.
pub mod frame;
