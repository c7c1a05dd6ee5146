//! Every target for a moment, with fixed seeds; and that a broken promise is found and named.

use std::process::Command;
use std::time::Duration;

use phalanx::fabric::sim::Seeded;
use phalanx_fuzz::{Limit, TARGETS, Target, run, target};

#[test]
fn every_target_holds_for_a_moment() {
    for name in TARGETS {
        let mut target = target(name).expect("a target");
        let cases = run(name, &mut *target, 1, Limit::Time(Duration::from_millis(300)));
        assert!(cases.as_ref().is_ok_and(|cases| *cases > 0), "{name}: {cases:?}");
    }
}

/// Parses lengths without looking, as a careless parser does.
struct Careless;

impl Target for Careless {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let mut bytes = vec![2, 7, 7];
        phalanx_fuzz::mutation::spoil(random, &mut bytes);
        let Some(length) = bytes.first() else { return Ok(()) };
        let _ = &bytes[1..1 + usize::from(*length)];
        Ok(())
    }
}

#[test]
fn a_careless_parser_is_found_and_its_seed_repeats_it() {
    let failure = run("careless", &mut Careless, 1, Limit::Cases(1000)).expect_err("it is careless");
    assert!(failure.what.contains("out of range"), "{failure}");
    let again = run("careless", &mut Careless, failure.seed, Limit::Cases(1));
    assert_eq!(again, Err(failure.clone()));
    let said = failure.to_string();
    assert!(said.ends_with(&format!("--cases 1 --seed {} careless", failure.seed)), "{said}");
}

#[test]
fn the_command_prints_its_seed_and_refuses_what_is_no_target() {
    let fuzz = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_phalanx-fuzz")).args(arguments).output();
    let output = fuzz(&["--cases", "50", "--seed", "3", "frame", "card"]).expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "seed 3\nframe: 50 cases\ncard: 50 cases\n");
    let output = fuzz(&["nothing"]).expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
