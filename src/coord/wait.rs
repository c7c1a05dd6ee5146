//! How to wait: one policy for all primitives. Spin, yield, or park, decided by how long the wait has lasted.
//!
//! Spinning sees a change first and burns a CPU; yielding gives the CPU to a rank that shares it; parking costs nothing
//! while it lasts and two context switches when it ends. The steps are chosen by time, not by count, because one spin
//! costs between 3 and 50 ns depending on the CPU.

use std::str::FromStr;
use std::time::Duration;

/// For how long a rank stays awake for what other nodes may ask it next: some round trips.
const ATTENTION: Duration = Duration::from_micros(50);

/// What the user asks for (`PHALANX_WAIT`, [`crate::JobOptions::wait`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WaitPolicy {
    /// Spin for ever. The lowest latency on dedicated CPUs; ruinous on shared ones.
    Spin,
    /// Spin a little (not at all where ranks share CPUs), yield a little, then park. The default.
    #[default]
    Adaptive,
    /// Park almost at once, for ranks that share their CPUs with other work.
    Park,
}

impl WaitPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Spin, Self::Adaptive, Self::Park];

    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Park => "park",
        }
    }
}

impl std::fmt::Display for WaitPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WaitPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| format!("{text:?} is no wait policy; choose spin, adaptive or park"))
    }
}

/// One turn of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after a pause instruction.
    Spin,
    /// Give the CPU to another rank that can run here, then look again.
    Yield,
    /// Sleep until woken.
    Park,
}

/// The policy made concrete for a group: how long each step lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitPlan {
    /// Until when to spin, counted from the beginning of the wait.
    pub spin_until: Duration,
    /// Until when to yield; after it, park.
    pub yield_until: Duration,
    /// Whether members share CPUs, so that yielding comes before spinning while a neighbour is missing.
    pub shares_cpus: bool,
}

impl WaitPlan {
    /// The plan for a policy. A wait of 100 ms for a late rank costs 0.25 ms of CPU under `adaptive`.
    pub fn new(policy: WaitPolicy, shares_cpus: bool) -> Self {
        let us = Duration::from_micros;
        let (spin_until, yield_until) = match (policy, shares_cpus) {
            (WaitPolicy::Spin, _) => (Duration::MAX, Duration::MAX),
            (WaitPolicy::Adaptive, false) => (us(200), us(250)),
            (WaitPolicy::Adaptive, true) => (us(20), us(200)),
            (WaitPolicy::Park, false) => (us(2), us(2)),
            (WaitPolicy::Park, true) => (Duration::ZERO, Duration::ZERO),
        };
        Self { spin_until, yield_until, shares_cpus: shares_cpus && policy != WaitPolicy::Spin }
    }

    /// For how long a rank that would park polls its connections instead where other nodes ask this one again and
    /// again: only on a CPU of its own, and not where it is to park soon.
    pub fn attention(&self) -> Duration {
        if self.shares_cpus || self.spin_until < ATTENTION { Duration::ZERO } else { ATTENTION }
    }

    /// The step after a wait of `waited`. `neighbour_is_missing`: a rank that this one keeps from the CPU is awaited.
    pub fn step(&self, waited: Duration, neighbour_is_missing: bool) -> Step {
        if waited >= self.yield_until {
            Step::Park
        } else if (neighbour_is_missing && self.shares_cpus) || waited >= self.spin_until {
            Step::Yield
        } else {
            Step::Spin
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_others_are_refused() {
        for policy in WaitPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert!("sleep".parse::<WaitPolicy>().expect_err("no such policy").contains("spin, adaptive or park"));
    }

    #[test]
    fn who_shares_a_cpu_or_is_to_park_soon_does_not_stay_awake() {
        for policy in WaitPolicy::ALL {
            assert_eq!(WaitPlan::new(policy, true).attention().is_zero(), policy != WaitPolicy::Spin, "{policy}");
        }
        assert_eq!(WaitPlan::new(WaitPolicy::Adaptive, false).attention(), ATTENTION);
        assert_eq!(WaitPlan::new(WaitPolicy::Park, false).attention(), Duration::ZERO);
    }

    #[test]
    fn each_policy_takes_its_steps_in_order() {
        let at = Duration::from_micros;
        let adaptive = WaitPlan::new(WaitPolicy::Adaptive, false);
        assert_eq!(adaptive.step(at(0), false), Step::Spin);
        assert_eq!(adaptive.step(at(201), false), Step::Yield);
        assert_eq!(adaptive.step(at(300), false), Step::Park);
        let shared = WaitPlan::new(WaitPolicy::Adaptive, true);
        assert_eq!(shared.step(at(0), true), Step::Yield);
        assert_eq!(shared.step(at(0), false), Step::Spin);
        assert_eq!(shared.step(at(201), true), Step::Park);
        assert_eq!(WaitPlan::new(WaitPolicy::Spin, true).step(Duration::from_secs(9), true), Step::Spin);
        assert_eq!(WaitPlan::new(WaitPolicy::Spin, false).step(Duration::from_secs(9), false), Step::Spin);
        assert_eq!(WaitPlan::new(WaitPolicy::Park, true).step(at(0), true), Step::Park);
    }
}
