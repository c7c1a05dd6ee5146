//! Mistakes in the command line end with status 2 and a message that names them, before anything is started.

use crate::harness::{Job, phalanx};

#[test]
fn mistakes_are_explained() {
    let cases: &[(&[&str], &str)] = &[
        (&["-n", "0", "--", "true"], "at least one rank"),
        (&["-n", "4097", "--", "true"], "at most 4096 ranks"),
        (&["-n", "two", "--", "true"], "whole number"),
        (&["-n", "-1", "--", "true"], "a whole number from 1 to 4096"),
        (&["--", "true"], "--ranks <N>"),
        (&["-n", "2", "--nodes", "0", "--", "true"], "at least one node"),
        (&["-n", "2", "--nodes", "many", "--", "true"], "whole number"),
        (&["-n", "2", "--nodes", "3", "--", "true"], "give --nodes 1 to 2"),
        (&["-n", "2"], "<PROGRAM>"),
        (&["-n", "2", "--"], "<PROGRAM>"),
        (&["-n", "2", "--timeout", "0", "--", "true"], "cannot end before it starts"),
        (&["-n", "2", "--timeout", "soon", "--", "true"], "no unit of time"),
        (&["-n", "2", "--bind", "socket", "--", "true"], "possible values: core, none"),
        (&["-n", "2", "--tag-outptu", "--", "true"], "--tag-outptu"),
    ];
    for (arguments, part) in cases {
        let outcome = Job::spawn(&mut phalanx(&[&["run"], *arguments].concat())).finish();
        assert_eq!(outcome.code(), 2, "{arguments:?}");
        assert!(outcome.stderr.contains(part), "{arguments:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
}

#[test]
fn arguments_of_the_program_are_its_own() {
    for dashes in [&["--"][..], &[]] {
        let arguments = [&["run", "-n", "1"], dashes, &["echo", "-n", "--", "a", "--timeout", "0"]].concat();
        let outcome = Job::spawn(&mut phalanx(&arguments)).finish();
        assert_eq!(outcome.stdout, "-- a --timeout 0", "{outcome:?}");
    }
}

#[test]
fn help_shows_examples() {
    let outcome = Job::spawn(&mut phalanx(&["run", "--help"])).finish();
    assert_eq!(outcome.code(), 0);
    for part in ["PHALANX_KEY", "PHALANX_NODE", "--nodes <M>", "--keep-going", "Exit status", "phalanx run -n 4 -- "] {
        assert!(outcome.stdout.contains(part), "no {part} in the help");
    }
}
