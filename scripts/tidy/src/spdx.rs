//! SPDX licence expressions: whether an allow-list satisfies one.
//!
//! `OR` is satisfied by either side, `AND` by both, and `X WITH Y` is one licence of its own. Old manifests write
//! `MIT/Apache-2.0` for `OR`.

/// Whether the expression is satisfied; an error if it cannot be read.
pub fn satisfied(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0, allowed };
    let result = parser.any().ok_or_else(|| format!("cannot read the licence expression `{expression}`"))?;
    if parser.at < words.len() {
        return Err(format!("cannot read the licence expression `{expression}`"));
    }
    Ok(result)
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a [String],
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut result = self.all()?;
        while self.take("OR") {
            result |= self.all()?;
        }
        Some(result)
    }

    fn all(&mut self) -> Option<bool> {
        let mut result = self.one()?;
        while self.take("AND") {
            result &= self.one()?;
        }
        Some(result)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let inside = self.any()?;
            return self.take(")").then_some(inside);
        }
        let name = *self.words.get(self.at).filter(|word| !["AND", "OR", "WITH", ")"].contains(word))?;
        self.at += 1;
        let mut licence = name.to_owned();
        if self.take("WITH") {
            licence = format!("{name} WITH {}", self.words.get(self.at)?);
            self.at += 1;
        }
        Some(self.allowed.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(expression: &str) -> Result<bool, String> {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        satisfied(expression, &allowed.map(str::to_owned))
    }

    #[test]
    fn expressions() {
        assert_eq!(ask("MIT"), Ok(true));
        assert_eq!(ask("GPL-3.0"), Ok(false));
        assert_eq!(ask("GPL-2.0 OR MIT"), Ok(true));
        assert_eq!(ask("MIT/Apache-2.0"), Ok(true));
        assert_eq!(ask("(MIT OR Apache-2.0) AND Unicode-3.0"), Ok(true));
        assert_eq!(ask("MIT AND GPL-2.0"), Ok(false));
        assert_eq!(ask("GPL-2.0 OR MIT AND GPL-3.0"), Ok(false), "AND binds more tightly");
        assert_eq!(ask("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(ask("MIT WITH Something"), Ok(false));
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", "MIT OR", "(MIT", "MIT Apache-2.0", "AND"] {
            assert!(ask(text).is_err(), "{text}");
        }
    }
}
