//! The part of TOML that this repository's own lists and `Cargo.lock` use.
//!
//! Tables, arrays of tables, strings, and lists of strings. Everything else is an error rather than a guess: a list
//! that guards something must not be half read.

/// A `[table]` or one `[[table]]`, in the order of the file. The part before the first header has an empty name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub line: usize,
    entries: Vec<(String, Value)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    List(Vec<String>),
    /// A number or a truth value, which no check asks for.
    Other,
}

impl Table {
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn list(&self, key: &str) -> Option<&[String]> {
        match self.value(key)? {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

pub fn parse(text: &str) -> Result<Vec<Table>, String> {
    let mut tables = vec![Table::default()];
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = without_comment(line).trim();
        let number = index + 1;
        if line.is_empty() {
            continue;
        }
        if line.starts_with('[') && line.ends_with(']') {
            tables.push(Table {
                name: line.trim_matches(['[', ']']).trim().to_owned(),
                line: number,
                entries: Vec::new(),
            });
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number}: neither a table nor a value"))?;
        let mut value = value.trim().to_owned();
        while value.starts_with('[') && !value.ends_with(']') {
            let (_, more) = lines.next().ok_or_else(|| format!("line {number}: the list does not end"))?;
            value.push_str(without_comment(more).trim());
        }
        let value = value_of(&value).ok_or_else(|| format!("line {number}: cannot read `{value}`"))?;
        // There is always a last table: the unnamed one is there from the start.
        tables.last_mut().ok_or("no table")?.entries.push((key.trim().to_owned(), value));
    }
    Ok(tables)
}

/// The line up to a `#` that is not within a string.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

fn value_of(text: &str) -> Option<Value> {
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return strings(inside).map(Value::List);
    }
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
    if bare { Some(Value::Other) } else { string(text).map(Value::Text) }
}

fn string(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains(['"', '\\'])).then(|| inside.to_owned())
}

fn strings(mut text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ', '\t']);
        if text.is_empty() {
            return Some(found);
        }
        let end = text.strip_prefix('"')?.find('"')? + 2;
        found.push(string(&text[..end])?);
        text = &text[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_texts_and_lists() {
        let tables =
            parse("version = 4\n[[a]]\nx = \"1 # 2\" # three\n[[a]]\ny = [\n \"p\", # q\n \"r\",\n]\nz = []\n")
                .unwrap();
        assert_eq!(
            tables.iter().map(|table| (table.name.as_str(), table.line)).collect::<Vec<_>>(),
            [("", 0), ("a", 2), ("a", 4)]
        );
        assert_eq!(tables[1].text("x"), Some("1 # 2"));
        assert_eq!(tables[2].list("y").unwrap(), ["p", "r"]);
        assert!(tables[2].list("z").unwrap().is_empty());
        assert_eq!(tables[0].text("version"), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["x", "x = {a = 1}", "x = \"a\\nb\"", "x = [1]", "x = [\n\"a\","] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
