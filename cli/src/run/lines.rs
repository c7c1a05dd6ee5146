//! Whole lines out of the pieces in which pipes deliver them, as pure code over bytes.
//!
//! A [`Partial`] gathers one rank's bytes until a line is complete. A [`Joiner`] lays the complete lines of all ranks
//! into one stream. What is no UTF-8 passes unchanged.
//!
//! Two cases have no whole line to give. A line longer than [`LINE_MAX`] is passed on in pieces of that size, so that
//! memory stays bounded. A rank's last line may lack its newline. In both cases the stream is left in mid-line, and
//! the joiner remembers whose line that is: if that rank goes on, the stream is exactly what the rank has written
//! (`phalanx run -n 1 -- cat picture.png > copy.png` copies); if anybody else follows, a newline comes first.

/// The longest line that is held back until its end has come.
pub const LINE_MAX: usize = 1 << 20;

/// Who writes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// A rank, whose lines are tagged on request.
    Rank(usize),
    /// The launcher, whose lines are its own messages.
    Launcher,
}

/// The beginning of a line whose end has not come yet.
#[derive(Default)]
pub struct Partial {
    bytes: Vec<u8>,
}

impl Partial {
    /// Where the next bytes are to be appended. Call `take_ready` after each such read, so that memory stays bounded.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Hands `emit` what is ready to be passed on: all complete lines, then pieces of an overlong one. The bytes
    /// before `searched` are known to have no newline.
    pub fn take_ready(&mut self, searched: usize, mut emit: impl FnMut(&[u8])) {
        let newline = self.bytes[searched..].iter().rposition(|&byte| byte == b'\n');
        if let Some(newline) = newline {
            emit(&self.bytes[..=searched + newline]);
            self.bytes.drain(..=searched + newline);
        }
        while self.bytes.len() >= LINE_MAX {
            emit(&self.bytes[..LINE_MAX]);
            self.bytes.drain(..LINE_MAX);
        }
        if self.bytes.is_empty() {
            // Thousands of ranks that once wrote a long line must not hold its memory for ever.
            self.bytes.shrink_to(4096);
        }
    }

    /// The last, unfinished line.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// One stream made of many authors' lines.
pub struct Joiner {
    tags: bool,
    /// Whose line the stream is in the middle of.
    open: Option<Author>,
}

impl Joiner {
    /// A stream at the beginning of a line.
    pub fn new(tags: bool) -> Self {
        Self { tags, open: None }
    }

    /// The bytes to write so that `text` by `author` comes next.
    pub fn join(&mut self, author: Author, text: &[u8]) -> Vec<u8> {
        let mut joined = Vec::with_capacity(text.len() + 16);
        if self.open.is_some_and(|open| open != author) {
            joined.push(b'\n');
            self.open = None;
        }
        match author {
            Author::Rank(rank) if self.tags => self.tag(&mut joined, rank, text),
            _ => joined.extend_from_slice(text),
        }
        self.open = if text.last().is_some_and(|&byte| byte != b'\n') { Some(author) } else { None };
        joined
    }

    fn tag(&self, joined: &mut Vec<u8>, rank: usize, text: &[u8]) {
        let tag = format!("[{rank}] ");
        let mut continued = self.open.is_some();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            if !continued {
                joined.extend_from_slice(tag.as_bytes());
            }
            joined.extend_from_slice(line);
            continued = false;
        }
    }

    /// The bytes that end the stream: tagged output is made of lines, so it ends with one.
    pub fn finish(&mut self) -> Vec<u8> {
        let open = self.open.take().is_some();
        if open && self.tags { vec![b'\n'] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one rank's partial makes of `chunks`.
    fn gather(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut partial, mut ready) = (Partial::default(), Vec::new());
        for chunk in chunks {
            let searched = partial.buffer().len();
            partial.buffer().extend_from_slice(chunk);
            partial.take_ready(searched, |lines| ready.push(lines.to_vec()));
        }
        let rest = partial.take_rest();
        (ready, rest)
    }

    #[test]
    fn lines_wait_for_their_end() {
        let (ready, rest) = gather(&[b"on", b"e\ntwo\nth", b"ree", b"\n", b"four"]);
        assert_eq!(ready, [b"one\ntwo\n".to_vec(), b"three\n".to_vec()]);
        assert_eq!(rest, b"four");
    }

    #[test]
    fn an_overlong_line_comes_in_pieces() {
        let long = vec![b'x'; LINE_MAX + 10];
        let (ready, rest) = gather(&[&long, b"\nnext"]);
        assert_eq!(ready[0].len(), LINE_MAX);
        assert_eq!(ready[1], b"xxxxxxxxxx\n");
        assert_eq!(rest, b"next");
    }

    #[test]
    fn one_author_is_copied_byte_by_byte() {
        let mut joiner = Joiner::new(false);
        let text = [&joiner.join(Author::Rank(0), b"\xff\n\0a")[..], &joiner.join(Author::Rank(0), b"b")].concat();
        assert_eq!(text, b"\xff\n\0ab");
        assert_eq!(joiner.finish(), b"");
    }

    #[test]
    fn an_open_line_is_closed_for_another_author() {
        let mut joiner = Joiner::new(false);
        assert_eq!(joiner.join(Author::Rank(0), b"half"), b"half");
        assert_eq!(joiner.join(Author::Rank(1), b"whole\n"), b"\nwhole\n");
        assert_eq!(joiner.join(Author::Rank(0), b"rest\n"), b"rest\n");
        assert_eq!(joiner.join(Author::Rank(0), b"open"), b"open");
        assert_eq!(joiner.join(Author::Launcher, b"said\n"), b"\nsaid\n");
    }

    #[test]
    fn tags_begin_lines_and_not_pieces() {
        let mut joiner = Joiner::new(true);
        assert_eq!(joiner.join(Author::Rank(7), b"a\n\nb"), b"[7] a\n[7] \n[7] b");
        assert_eq!(joiner.join(Author::Rank(7), b"c\nd\n"), b"c\n[7] d\n");
        assert_eq!(joiner.join(Author::Rank(7), b"e"), b"[7] e");
        assert_eq!(joiner.join(Author::Launcher, b"said\n"), b"\nsaid\n");
        assert_eq!(joiner.join(Author::Rank(3), b"f"), b"[3] f");
        assert_eq!(joiner.finish(), b"\n");
    }
}
