//! The little of Markdown that the link checks need: text without code, code spans, headings and their anchors.

/// A Markdown file taken apart, line by line; line `i` of the file is at index `i - 1`.
pub struct Page {
    /// Lines with fenced blocks emptied and code spans blanked.
    pub prose: Vec<String>,
    /// Code spans, each with its line.
    pub spans: Vec<(usize, String)>,
    /// What `#anchor` may name.
    pub anchors: Vec<String>,
}

pub fn parse(text: &str) -> Page {
    let mut page = Page { prose: Vec::new(), spans: Vec::new(), anchors: Vec::new() };
    let mut headings = Vec::new();
    let mut fence: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let marker = fence_of(line);
        if let Some(open) = &fence {
            if marker.is_some_and(|close| close.starts_with(open.as_str()) && line.trim() == close) {
                fence = None;
            }
            page.prose.push(String::new());
            continue;
        }
        if let Some(open) = marker {
            fence = Some(open.to_owned());
            page.prose.push(String::new());
            continue;
        }
        page.prose.push(without_spans(line, index + 1, &mut page.spans));
        headings.extend(heading_of(line, text.lines().nth(index + 1)));
    }
    page.anchors = anchors(&headings);
    page.anchors.extend(page.prose.iter().flat_map(|line| html_ids(line)));
    page
}

/// The run of three or more backticks or tildes that opens or closes a fenced block.
fn fence_of(line: &str) -> Option<&str> {
    let start = line.trim_start();
    let mark = start.chars().next().filter(|c| *c == '`' || *c == '~')?;
    let run = start.chars().take_while(|c| *c == mark).count();
    // Backticks later in the line make it a code span, not a fence.
    (run >= 3 && !(mark == '`' && start[run..].contains('`'))).then(|| &start[..run])
}

/// The line with code spans blanked; the spans go to `spans`.
fn without_spans(line: &str, number: usize, spans: &mut Vec<(usize, String)>) -> String {
    let mut prose = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let run = rest[start..].chars().take_while(|c| *c == '`').count();
        let inside = &rest[start + run..];
        let Some(end) = closing(inside, run) else {
            break;
        };
        prose.push_str(&rest[..start]);
        prose.push_str("` `");
        spans.push((number, inside[..end].trim().to_owned()));
        rest = &inside[end + run..];
    }
    prose.push_str(rest);
    prose
}

/// Where a run of exactly `run` backticks starts.
fn closing(text: &str, run: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = text[at..].find('`') {
        let start = at + found;
        let length = text[start..].chars().take_while(|c| *c == '`').count();
        if length == run {
            return Some(start);
        }
        at = start + length;
    }
    None
}

/// The text of a heading, in either of Markdown's two forms.
fn heading_of(line: &str, next: Option<&str>) -> Option<String> {
    let level = line.chars().take_while(|c| *c == '#').count();
    if (1..=6).contains(&level) && line[level..].starts_with(' ') {
        return Some(line[level..].trim().trim_end_matches('#').trim().to_owned());
    }
    let under = next?.trim_end();
    let underlined = !under.is_empty() && (under.chars().all(|c| c == '=') || under.chars().all(|c| c == '-'));
    (underlined && !line.trim().is_empty() && !line.starts_with(['|', '-', '>'])).then(|| line.trim().to_owned())
}

/// GitHub's anchors: a repeated heading gets `-1`, `-2`, ….
fn anchors(headings: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for heading in headings {
        let base = slug(heading);
        let free =
            (0..).map(|n| if n == 0 { base.clone() } else { format!("{base}-{n}") }).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
}

fn slug(heading: &str) -> String {
    let text = without_targets(heading).to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `[text](target)` as `text`.
fn without_targets(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(close) = rest.find("](") {
        let Some(end) = rest[close..].find(')') else {
            break;
        };
        plain.push_str(&rest[..close]);
        rest = &rest[close + end + 1..];
    }
    plain.push_str(rest);
    plain
}

fn html_ids(line: &str) -> Vec<String> {
    ["id=\"", "name=\""].iter().flat_map(|key| attributes(line, key)).collect()
}

/// The values of an HTML attribute, given as `name="`.
pub fn attributes(line: &str, key: &str) -> Vec<String> {
    line.split(key).skip(1).filter_map(|rest| rest.split_once('"')).map(|(value, _)| value.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_not_prose() {
        let page = parse("a `b` c\n```sh\n[x](y)\n```\n~~~\n# no\n~~~\n``d ` e``");
        assert_eq!(page.prose, ["a ` ` c", "", "", "", "", "", "", "` `"]);
        assert_eq!(page.spans, [(1, "b".to_owned()), (8, "d ` e".to_owned())]);
        assert!(page.anchors.is_empty());
    }

    #[test]
    fn anchors_are_those_of_github() {
        let page = parse(
            "# The `run` command\n## Why, then?\n## Why, then?\nTitle\n=====\n## [Link](x.md) & more\n<a id=\"own\"></a>",
        );
        assert_eq!(page.anchors, ["the-run-command", "why-then", "why-then-1", "title", "link--more", "own"]);
    }
}
