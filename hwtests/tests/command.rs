//! The program itself: what it says where there is no device, and that it runs where there is one.

use std::process::{Command, Output};

fn hwtests(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_phalanx-hwtests")).args(arguments).output().expect("the program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn no_device_is_said_and_is_a_failure_only_where_one_is_required() {
    // No machine has a device of this name, whatever others it has.
    let (output, text) = hwtests(&["check", "--device", "none-such"]);
    assert!(output.status.success() && text.starts_with("not run: "), "{text}");
    let (output, text) = hwtests(&["check", "--device", "none-such", "--require", "rdma"]);
    assert!(!output.status.success() && text.starts_with("FAILED: "), "{text}");
}

#[test]
fn every_check_passes_on_this_machines_devices() {
    let (output, text) = hwtests(&["check"]);
    print!("{text}");
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_name_that_no_check_has_is_not_a_pass() {
    let (output, text) = hwtests(&["check", "--only", "no such check"]);
    assert!(!output.status.success() || text.starts_with("not run: "), "{text}");
}
