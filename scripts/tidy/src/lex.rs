//! Just enough of Rust's (and C's) lexical grammar to tell code from comments and strings.
//!
//! The checks need three views of a source: its tokens (paths and attributes), its comments with everything else
//! blanked, and line numbers for both. Strings and characters become nothing at all, so that a message which names a
//! forbidden path is not an import of it.

/// A token of code. Strings, characters, numbers and lifetimes are left out: no check asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Ident(String),
    /// `::`
    PathSep,
    Punct(char),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

impl Token {
    pub fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    pub fn is(&self, punct: char) -> bool {
        self.kind == Kind::Punct(punct)
    }
}

/// A source taken apart.
pub struct Source {
    pub tokens: Vec<Token>,
    /// The text with all but comments (and line breaks) blanked; line numbers are those of the source.
    pub comments: String,
}

pub fn lex(text: &str) -> Source {
    let mut lexer =
        Lexer { chars: text.chars().collect(), at: 0, line: 1, comments: String::new(), tokens: Vec::new() };
    while lexer.peek(0).is_some() {
        lexer.step();
    }
    Source { tokens: lexer.tokens, comments: lexer.comments }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    comments: String,
    tokens: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// Moves past one character, which belongs to a comment or does not.
    fn bump(&mut self, in_comment: bool) {
        let Some(c) = self.peek(0) else { return };
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        self.comments.push(if in_comment || c == '\n' { c } else { ' ' });
    }

    fn step(&mut self) {
        let c = self.chars[self.at];
        match (c, self.peek(1)) {
            ('/', Some('/')) => self.line_comment(),
            ('/', Some('*')) => self.block_comment(),
            ('"', _) => self.string(),
            ('\'', _) => self.quote(),
            (':', Some(':')) => {
                self.push(Kind::PathSep);
                self.bump(false);
                self.bump(false);
            }
            _ if c == '_' || c.is_alphabetic() => self.word(),
            _ if c.is_numeric() => self.number(),
            _ if c.is_whitespace() => self.bump(false),
            _ => {
                self.push(Kind::Punct(c));
                self.bump(false);
            }
        }
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.bump(true);
        }
    }

    /// Block comments nest in Rust; C's do not, but a `/*` within one is nothing that a C source should have.
    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.peek(0).is_some() {
            let pair = (self.peek(0), self.peek(1));
            match pair {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                _ => {
                    self.bump(true);
                    continue;
                }
            }
            self.bump(true);
            self.bump(true);
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.bump(false);
        while let Some(c) = self.peek(0) {
            self.bump(false);
            match c {
                '\\' => self.bump(false),
                '"' => return,
                _ => {}
            }
        }
    }

    /// A character, or a lifetime, which has no closing quote after its first letter.
    fn quote(&mut self) {
        let is_char = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.bump(false);
        if !is_char {
            while self.peek(0).is_some_and(is_word) {
                self.bump(false);
            }
            return;
        }
        while let Some(c) = self.peek(0) {
            self.bump(false);
            match c {
                '\\' => self.bump(false),
                '\'' => return,
                _ => {}
            }
        }
    }

    /// An identifier, or the prefix of a string: `r"…"`, `br#"…"#`, `b'…'`, or a raw identifier `r#name`.
    fn word(&mut self) {
        let line = self.line;
        let mut name = String::new();
        while let Some(c) = self.peek(0).filter(|c| is_word(*c)) {
            name.push(c);
            self.bump(false);
        }
        match (name.as_str(), self.peek(0)) {
            ("r" | "br" | "cr", Some('"' | '#')) if self.raw_string() => {}
            ("b" | "c", Some('"')) => self.string(),
            ("b", Some('\'')) => self.quote(),
            ("r", Some('#')) => self.bump(false),
            _ => self.tokens.push(Token { kind: Kind::Ident(name), line }),
        }
    }

    /// Skips the rest of a raw string whose prefix has been read; false if what follows is no raw string.
    fn raw_string(&mut self) -> bool {
        let hashes = (0..).take_while(|ahead| self.peek(*ahead) == Some('#')).count();
        if self.peek(hashes) != Some('"') {
            return false;
        }
        for _ in 0..=hashes {
            self.bump(false);
        }
        while let Some(c) = self.peek(0) {
            self.bump(false);
            if c == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                (0..hashes).for_each(|_| self.bump(false));
                break;
            }
        }
        true
    }

    /// Digits with their suffix, so that `0x1e_u64` gives no identifier. A range's dots are left alone.
    fn number(&mut self) {
        while self.peek(0).is_some_and(is_word) {
            self.bump(false);
        }
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idents(text: &str) -> Vec<String> {
        lex(text).tokens.iter().filter_map(Token::ident).map(str::to_owned).collect()
    }

    #[test]
    fn strings_and_comments_hold_no_code() {
        let text = r###"a /* b /* c */ d */ "e \" f" r#"g " h"# b"i" b'j' 'k' '\'' 'life // m
n"###;
        assert_eq!(idents(text), ["a", "n"]);
    }

    #[test]
    fn raw_identifiers_and_numbers() {
        assert_eq!(idents("r#type 0x1e_u64 1..n x.0"), ["type", "n", "x"]);
    }

    #[test]
    fn lines_are_counted_through_strings() {
        let source = lex("\"a\nb\"\nx");
        assert_eq!(source.tokens, [Token { kind: Kind::Ident("x".into()), line: 3 }]);
    }

    #[test]
    fn comments_keep_their_place() {
        assert_eq!(lex("x // y\n\"// z\"").comments, "  // y\n      ");
    }
}
