//! The findings on paper: a page for people, or a JSON object a line for programs.

use std::fmt::Write;

use super::check::{Area, Check, Status};

/// The page is no wider than this, so that it fits beside something else and into a mail.
const WIDTH: usize = 100;
/// Where the text of a finding begins: after its status and its name.
const INDENT: usize = 27;
/// Where a remedy begins: further left, so that most commands fit on one line and can be copied.
const REMEDY_INDENT: usize = 11;

/// An object for each finding, on a line of its own.
pub fn json_lines(checks: &[Check]) -> String {
    checks.iter().map(|check| serde_json::to_string(check).expect("texts and numbers") + "\n").collect()
}

/// The page.
pub fn page(checks: &[Check], is_coloured: bool) -> String {
    let paint = Paint(is_coloured);
    let mut page = format!("{}\n", summary(checks, paint));
    for area in Area::ALL {
        let of_area: Vec<&Check> = checks.iter().filter(|check| check.area == area && !check.is_folded).collect();
        if of_area.is_empty() {
            continue;
        }
        let _ = writeln!(page, "\n{}", paint.bold(area.title()));
        of_area.iter().for_each(|check| finding(&mut page, check, paint));
    }
    page
}

/// The worst in a sentence.
fn summary(checks: &[Check], paint: Paint) -> String {
    let names = |status| {
        let of_status = checks.iter().filter(|check| check.status == status && !check.is_folded);
        of_status.map(|check| check.name).collect::<Vec<_>>().join(", ")
    };
    let verdict = match checks.iter().find(|check| check.prevents) {
        Some(check) => paint.status(Status::Missing, &format!("Phalanx does not work here: {}.", check.name)),
        None => paint.bold("Phalanx works here."),
    };
    let worst = [Status::Missing, Status::Warning, Status::Note].into_iter().find(|status| !names(*status).is_empty());
    match worst {
        None => format!("{verdict} Nothing to mend."),
        Some(Status::Note) => format!("{verdict} Good to know: {}.", names(Status::Note)),
        Some(worst) => format!("{verdict} To mend ({}): {}.", worst.name(), names(worst)),
    }
}

fn finding(page: &mut String, check: &Check, paint: Paint) {
    let status = paint.status(check.status, &format!("{:<8}", check.status.name()));
    let mut label = format!("  {status} {:<16}", check.name);
    let text_width = WIDTH - INDENT;
    for line in check.found.iter().flat_map(|line| wrap(line, text_width)) {
        let _ = writeln!(page, "{label}{line}");
        label = " ".repeat(INDENT);
    }
    for line in wrap(&check.meaning, text_width) {
        let _ = writeln!(page, "{:INDENT$}{}", "", paint.dim(&line));
    }
    if let Some(remedy) = &check.remedy {
        let mut label = "mend: ";
        for line in wrap(remedy, WIDTH - REMEDY_INDENT - label.len()) {
            let _ = writeln!(page, "{:REMEDY_INDENT$}{label}{line}", "");
            label = "      ";
        }
    }
}

/// Breaks a text at blanks into lines of at most `width` characters; a longer word is broken where it must.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace().flat_map(|word| pieces(word, width)) {
        let line = lines.last_mut().expect("at least one line");
        if line.is_empty() {
            *line = word;
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(&word);
        } else {
            lines.push(word);
        }
    }
    lines
}

fn pieces(word: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    characters.chunks(width).map(|piece| piece.iter().collect()).collect()
}

/// Colours, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn status(self, status: Status, text: &str) -> String {
        let code = match status {
            Status::Ok => "32",
            Status::Note => "36",
            Status::Warning => "33",
            Status::Missing => "31",
        };
        self.with(code, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::new(Area::Cpu, "cpus").found("many CPUs, ".repeat(30)).meaning("Good."),
            Check::new(Area::Rdma, "rdma_gids").status(Status::Warning).found("x".repeat(300)).meaning("No GID."),
            Check::new(Area::Rdma, "rdma_ports").status(Status::Note).found("none").meaning("None.").folded(),
            Check::new(Area::Memory, "memlock").status(Status::Note).found("8 MiB").remedy("ulimit -l 9"),
        ]
    }

    #[test]
    fn a_page_is_narrow_and_grouped_and_says_the_worst_first() {
        let page = page(&checks(), false);
        assert!(page.lines().all(|line| line.chars().count() <= WIDTH), "{page}");
        assert!(page.starts_with("Phalanx works here. To mend (warning): rdma_gids.\n"), "{page}");
        assert!(page.contains("\nMemory\n  note     memlock         8 MiB\n"), "{page}");
        assert!(page.contains("\n           mend: ulimit -l 9\n"), "{page}");
        assert!(!page.contains("rdma_ports") && !page.contains("\nNetwork") && !page.contains('\x1b'), "{page}");
    }

    #[test]
    fn colours_change_nothing_else() {
        let (plain, mut coloured) = (page(&checks(), false), page(&checks(), true));
        assert_ne!(plain, coloured);
        for code in ["0", "1", "2", "31", "32", "33", "36"] {
            coloured = coloured.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, coloured);
    }

    #[test]
    fn what_prevents_phalanx_is_said_first() {
        let mut checks = checks();
        checks.push(Check::new(Area::Memory, "shared_memory").status(Status::Missing).prevents());
        assert!(page(&checks, false).starts_with("Phalanx does not work here: shared_memory."));
        checks.clear();
        assert_eq!(page(&checks, false), "Phalanx works here. Nothing to mend.\n");
    }

    #[test]
    fn json_has_the_fields_of_the_contract_on_one_line_each() {
        let text = json_lines(&[Check::new(Area::Cpu, "cpus").found("a\x1b[31m\nb").found("c").fact("n", 2)]);
        let expected =
            r#"{"doctor":"cpus","status":"ok","found":"a?[31m?b; c","facts":{"n":2},"meaning":"","remedy":null}"#;
        assert_eq!(text, format!("{expected}\n"));
    }
}
