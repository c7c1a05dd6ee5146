//! Lines of text between two processes: how the ends of a connection exchange their offers here.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};

use phalanx::fabric::rdma::{OFFER_BYTES, Offer};

pub struct Channel {
    reader: Box<dyn BufRead>,
    writer: Box<dyn Write>,
}

impl Channel {
    pub fn new(reader: impl Read + 'static, writer: impl Write + 'static) -> Self {
        Self { reader: Box::new(BufReader::new(reader)), writer: Box::new(writer) }
    }

    /// This process's own standard input and output.
    pub fn standard() -> Self {
        Self::new(std::io::stdin(), std::io::stdout())
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.writer, "{line}").and_then(|()| self.writer.flush()).expect("the other process listens");
    }

    /// The next line; empty once the other process is gone.
    pub fn receive(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub fn send_offer(&mut self, offer: &Offer) {
        let mut line = String::new();
        offer.to_bytes().iter().for_each(|byte| write!(line, "{byte:02x}").expect("a string takes all"));
        self.send(&line);
    }

    pub fn receive_offer(&mut self) -> Offer {
        let line = self.receive();
        assert_eq!(line.len(), 2 * OFFER_BYTES, "the other process sent no offer: {line:?}");
        let byte = |at: usize| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("two digits");
        let bytes: Vec<u8> = (0..OFFER_BYTES).map(byte).collect();
        Offer::from_bytes(&bytes).expect("an offer")
    }
}
