//! What this program was built from.

/// The commit, with "-dirty" when files had changed; "unknown" outside a checkout.
pub const COMMIT: &str = env!("PHALANX_COMMIT");
/// The library's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
