//! How the two ends of a broken RDMA connection give it up and make a new one: what they say to each other, and when.
//!
//! The ends talk by *notes*, which travel over TCP. A machine without a device or a clock: whoever drives it
//! ([`super::network`]) hands in what has happened, and does what a [`Step`] says. Each connection has a number, and so
//! has each attempt at one; an old note is told by it.
//!
//! ```text
//!           breach                  gone                    offer, of the end that leads
//!   Whole ─────────▶ Held ─────────────────▶ Down ──────────────────────────────▶ Offered
//!     │               says broken, until       ▲  ▲                                   │ answer: connects,
//!     │ broken: says gone                      │  │ broken, or nothing for long       │ says ready
//!     ├────────────────────────────────────────┘  └───────────────────────────────────┤
//!     │                                                                               ▼
//!     │ offer, to the end that follows: connects, answers                           Whole
//!     └───────▶ Answered ──ready──▶ Whole
//!                   └──nothing for long──▶ Held
//! ```
//!
//! *Order.* An end whose connection broke does not know which of its writes are still on their way to the other end. So
//! it is *held*: it posts nothing, by whatever way, until the other end has said that it has given up its own end of
//! that connection, after which nothing comes by it any more. What was unfinished is lost by then, or has taken effect.
//!
//! *Patience.* A held end's posts are refused as having no room, which says: wait. When the other end has not answered
//! for a while, they are refused as unreachable, so that what is behind them can go on without them. Nothing is posted
//! in either case.
//!
//! *No end at all.* A node that never had an end of the connection, because its own connecting failed in the beginning,
//! has none to give up and says so ([`answer_without_end`]). It takes no offers: those come to nothing, ever more
//! seldom.
//!
//! *Loss.* Notes are lost with a TCP connection. Each is said again, or what it was about is given up, after a while.
//!
//! The node of the lower number leads: it makes the offers. Their delay doubles with each that comes to nothing, and
//! with each connection that breaks soon.

use std::time::{Duration, Instant};

use super::tcp::frame::{LETTER_WORDS, Letter};

/// Words of an offer of a connection.
pub const OFFER_WORDS: usize = 7;
const _: () = assert!(2 + OFFER_WORDS == LETTER_WORDS && 8 * OFFER_WORDS == super::rdma::OFFER_BYTES);

/// How often a held end asks.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long an answer, or the word that the connection is ready, may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// The delays before an offer.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A connection that has held so long was a good one.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// What one end says to the other of connection `number`.
///
/// | word | field |
/// | --- | --- |
/// | 0 | what: 1 to 5, in the order below |
/// | 1 | number |
/// | 2–8 | the offer, or 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which connection.
    pub number: u64,
    /// What of it.
    pub what: What,
}

/// See [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// My end broke. Give yours up.
    Broken,
    /// My end is no more: nothing will come in by it.
    Gone,
    /// A new connection: my end of it.
    Offer([u64; OFFER_WORDS]),
    /// I have connected to your offer: my end.
    Answer([u64; OFFER_WORDS]),
    /// I have connected, too.
    Ready,
}

impl Note {
    /// As words, to be sent.
    pub fn encode(&self) -> Letter {
        let (kind, offer) = match self.what {
            What::Broken => (1, [0; OFFER_WORDS]),
            What::Gone => (2, [0; OFFER_WORDS]),
            What::Offer(offer) => (3, offer),
            What::Answer(offer) => (4, offer),
            What::Ready => (5, [0; OFFER_WORDS]),
        };
        let mut letter = [0; LETTER_WORDS];
        (letter[0], letter[1]) = (kind, self.number);
        letter[2..].copy_from_slice(&offer);
        letter
    }

    /// The note in words that may be anything; `None` if they are none.
    pub fn parse(letter: &Letter) -> Option<Self> {
        let offer: [u64; OFFER_WORDS] = letter[2..].try_into().expect("as many words");
        let what = match letter[0] {
            1 => What::Broken,
            2 => What::Gone,
            3 => What::Offer(offer),
            4 => What::Answer(offer),
            5 => What::Ready,
            _ => return None,
        };
        let note = Self { number: letter[1], what };
        (note.encode() == *letter).then_some(note)
    }
}

/// What a node answers that has no end of the connection and makes none.
pub fn answer_without_end(note: Note) -> Option<Note> {
    (note.what == What::Broken).then_some(Note { number: note.number, what: What::Gone })
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Say this.
    Say(Note),
    /// Give this end up, then say this.
    GiveUp(Note),
    /// Make an offer and say it, or tell [`Mending::handle_failure`].
    Offer,
    /// Make an end, connect it to this offer and say its own; or tell [`Mending::handle_failure`].
    Answer([u64; OFFER_WORDS]),
    /// Connect to this answer and tell [`Mending::handle_connected`], or [`Mending::handle_failure`].
    Connect([u64; OFFER_WORDS]),
}

/// One end of the connection to one node. Methods named `handle_` take in what has happened.
#[derive(Debug)]
pub struct Mending {
    leads: bool,
    number: u64,
    state: State,
    delay: Duration,
    whole_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests go by it.
    Whole,
    /// Broken, and the other end may still take in what was sent.
    Held { since: Instant, ask_at: Instant },
    /// Neither end is there.
    Down { offer_at: Instant },
    /// An offer is on its way.
    Offered { until: Instant },
    /// Connected; the other end may not be.
    Answered { until: Instant },
}

impl Mending {
    /// A connection that has just been made, between the nodes `here` and `there`.
    pub fn new(here: usize, there: usize, now: Instant) -> Self {
        Self { leads: here < there, number: 0, state: State::Whole, delay: FIRST_DELAY, whole_since: now }
    }

    /// Whether requests may go by the connection.
    pub fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// Whether no request may go by any way.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    /// Whether this end is held, and the other has not answered its first question by the time of the second.
    pub fn is_unanswered(&self, now: Instant) -> bool {
        matches!(self.state, State::Held { since, .. } if now.saturating_duration_since(since) >= ASK_EVERY)
    }

    /// Whether this end is connected, as was seen after whatever else has been handled. A whole one that is not broke
    /// just now, or before it was known to be whole; then this is `true`.
    pub fn handle_sight(&mut self, is_connected: bool, now: Instant) -> bool {
        let is_breach = self.is_whole() && !is_connected;
        if is_breach {
            self.forgive(now);
            self.state = State::Held { since: now, ask_at: now };
        }
        is_breach
    }

    /// What there is to do by now.
    pub fn poll(&mut self, now: Instant) -> Step {
        match self.state {
            State::Held { since, ask_at } if now >= ask_at => {
                self.state = State::Held { since, ask_at: now + ASK_EVERY };
                Step::Say(self.note(What::Broken))
            }
            State::Down { offer_at } if self.leads && now >= offer_at => {
                self.number += 1;
                self.state = State::Offered { until: now + ANSWER_LIMIT };
                Step::Offer
            }
            State::Offered { until } | State::Answered { until } if now >= until => self.handle_failure(now),
            _ => Step::Rest,
        }
    }

    /// The other end has said something.
    pub fn handle(&mut self, note: Note, now: Instant) -> Step {
        let is_of_this = note.number == self.number;
        match (note.what, self.state) {
            (What::Broken, state) => {
                let gone = Note { number: note.number, what: What::Gone };
                match state {
                    // Of an older connection there is nothing left.
                    _ if note.number < self.number => return Step::Say(gone),
                    // It asks again because the answer was lost or late: nothing more has come to nothing.
                    State::Down { .. } => return Step::Say(gone),
                    State::Whole => self.forgive(now),
                    State::Held { .. } | State::Offered { .. } | State::Answered { .. } => {}
                }
                self.go_down(now);
                Step::GiveUp(gone)
            }
            (What::Gone, State::Held { .. }) if is_of_this => {
                self.go_down(now);
                Step::Rest
            }
            (What::Offer(offer), _) if !self.leads && note.number > self.number => {
                self.number = note.number;
                self.state = State::Answered { until: now + ANSWER_LIMIT };
                Step::Answer(offer)
            }
            (What::Answer(offer), State::Offered { .. }) if is_of_this => Step::Connect(offer),
            (What::Ready, State::Answered { .. }) if is_of_this => {
                self.handle_connected(now);
                Step::Rest
            }
            _ => Step::Rest,
        }
    }

    /// Both ends are connected.
    pub fn handle_connected(&mut self, now: Instant) {
        (self.state, self.whole_since) = (State::Whole, now);
    }

    /// An attempt has come to nothing.
    pub fn handle_failure(&mut self, now: Instant) -> Step {
        match self.leads {
            true => self.go_down(now),
            // The other end may take the connection for whole: until it says otherwise it must be told.
            false => self.state = State::Held { since: now, ask_at: now + ASK_EVERY },
        }
        Step::GiveUp(self.note(What::Broken))
    }

    /// A note on the connection, or on the attempt at one.
    pub fn note(&self, what: What) -> Note {
        Note { number: self.number, what }
    }

    fn go_down(&mut self, now: Instant) {
        self.state = State::Down { offer_at: now + self.delay };
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
    }

    /// A connection that has held for long is no reason to wait before the next one.
    fn forgive(&mut self, now: Instant) {
        if now.saturating_duration_since(self.whole_since) >= STEADY_AFTER {
            self.delay = FIRST_DELAY;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::fabric::sim::Seeded;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Two ends, with what is on its way to each. An end that is there is known by the number of its connection.
    struct Pair {
        ends: [Mending; 2],
        inbox: [VecDeque<Note>; 2],
        /// The connection whose end each has, by which it may take things in.
        has: [Option<u64>; 2],
        /// The last connection by which each has posted.
        used: [u64; 2],
        now: Instant,
    }

    impl Pair {
        fn new() -> Self {
            let now = Instant::now();
            let ends = [Mending::new(3, 8, now), Mending::new(8, 3, now)];
            Self { ends, inbox: Default::default(), has: [Some(0), Some(0)], used: [0, 0], now }
        }

        fn breach(&mut self, end: usize) {
            self.has[end] = None;
            // Who is connected and waits for the other's word does not look.
            self.ends[end].handle_sight(false, self.now);
        }

        fn act(&mut self, end: usize, step: Step, fails: bool) {
            let number = self.ends[end].number;
            let note = match step {
                Step::Rest => return,
                Step::Say(note) => note,
                Step::GiveUp(note) => {
                    self.has[end] = None;
                    note
                }
                Step::Offer | Step::Answer(_) | Step::Connect(_) if fails => {
                    self.has[end] = None;
                    let step = self.ends[end].handle_failure(self.now);
                    return self.act(end, step, false);
                }
                Step::Offer => {
                    self.has[end] = None;
                    self.ends[end].note(What::Offer([number; OFFER_WORDS]))
                }
                Step::Answer(offer) => {
                    assert_eq!(offer, [number; OFFER_WORDS]);
                    self.has[end] = Some(number);
                    self.ends[end].note(What::Answer(offer))
                }
                Step::Connect(answer) => {
                    assert_eq!(answer, [number; OFFER_WORDS]);
                    self.has[end] = Some(number);
                    self.ends[end].handle_connected(self.now);
                    self.ends[end].note(What::Ready)
                }
            };
            self.inbox[1 - end].push_back(note);
        }

        fn deliver(&mut self, end: usize, fails: bool) {
            if let Some(note) = self.inbox[end].pop_front() {
                let note = Note::parse(&note.encode()).expect("a note");
                let step = self.ends[end].handle(note, self.now);
                self.act(end, step, fails);
                self.ends[end].handle_sight(self.has[end].is_some(), self.now);
            }
        }

        fn poll(&mut self, end: usize, fails: bool) {
            let step = self.ends[end].poll(self.now);
            self.act(end, step, fails);
        }

        /// What must hold at any time.
        fn check(&mut self) {
            for (end, own) in self.ends.iter().enumerate() {
                if own.is_whole() {
                    assert_eq!(self.has[end], Some(own.number), "whole without a connection");
                    self.used[end] = own.number;
                } else if !own.is_held() {
                    // It posts by another way: nothing may come in late by the connection that it used.
                    assert_ne!(self.has[1 - end], Some(self.used[end]), "{own:?}");
                }
            }
        }

        fn settle(&mut self) {
            for _ in 0..20_000 {
                for end in [0, 1] {
                    self.poll(end, false);
                    self.deliver(end, false);
                    self.check();
                }
                self.now += MILLISECOND;
            }
        }

        fn is_whole(&self) -> bool {
            self.ends.iter().all(Mending::is_whole) && self.has[0].is_some() && self.has[0] == self.has[1]
        }
    }

    #[test]
    fn a_breach_of_either_end_or_both_is_mended() {
        for broken in [&[0][..], &[1], &[0, 1]] {
            let mut pair = Pair::new();
            for times in 1..=5 {
                broken.iter().for_each(|end| pair.breach(*end));
                assert!(broken.iter().all(|end| pair.ends[*end].is_held()));
                pair.settle();
                assert!(pair.is_whole(), "{:?} {:?}", pair.ends, pair.has);
                assert_eq!(pair.has[0], Some(times), "the first attempt succeeds");
            }
        }
    }

    #[test]
    fn whatever_is_lost_late_or_refused_they_meet_again_and_nothing_comes_late() {
        for seed in 0..300 {
            let mut random = Seeded::new(seed);
            let mut pair = Pair::new();
            for _ in 0..400 {
                let end = random.below(2);
                match random.below(12) {
                    0 => pair.breach(end),
                    // A connection by TCP breaks: all that is on its way by it is lost.
                    1 => pair.inbox.iter_mut().for_each(VecDeque::clear),
                    2..=5 => pair.poll(end, random.below(5) == 0),
                    6..=9 => pair.deliver(end, random.below(5) == 0),
                    _ => pair.now += MILLISECOND * [1, 20, 300, 3000][random.below(4)],
                }
                pair.check();
            }
            pair.settle();
            assert!(pair.is_whole(), "seed {seed}: {:?} {:?}", pair.ends, pair.has);
        }
    }

    #[test]
    fn connections_that_break_at_once_are_made_ever_more_seldom() {
        let mut pair = Pair::new();
        let begin = pair.now;
        while pair.now < begin + Duration::from_secs(60) {
            pair.breach(0);
            (0..2).for_each(|end| pair.poll(end, false));
            (0..2).for_each(|end| pair.deliver(end, false));
            pair.now += MILLISECOND;
        }
        let made = pair.ends[0].number;
        assert!((10..40).contains(&made), "{made} in a minute");
    }

    #[test]
    fn a_breach_before_the_last_word_is_seen_when_it_comes() {
        let mut pair = Pair::new();
        pair.breach(1);
        for _ in 0..1000 {
            if pair.has[1].is_some() {
                break;
            }
            (0..2).for_each(|end| pair.poll(end, false));
            (0..2).for_each(|end| pair.deliver(end, false));
            pair.now += MILLISECOND;
        }
        assert!(!pair.ends[1].is_whole(), "it waits for the other's word");
        pair.breach(1);
        assert!(!pair.ends[1].is_held(), "nobody has looked");
        (0..2).for_each(|end| pair.deliver(end, false));
        assert!(pair.ends[0].is_whole() && pair.ends[1].is_held(), "{:?}", pair.ends);
        pair.settle();
        assert!(pair.is_whole());
        assert_eq!(pair.has[0], Some(2));
    }

    #[test]
    fn an_end_whose_other_never_was_is_not_held_for_long_and_offers_ever_more_seldom() {
        for (here, there) in [(3, 8), (8, 3)] {
            let begin = Instant::now();
            let mut end = Mending::new(here, there, begin);
            assert!(end.handle_sight(false, begin));
            let (mut offers, mut questions) = (0, 0);
            for step in 0..60_000 {
                let now = begin + MILLISECOND * step;
                let said = match end.poll(now) {
                    Step::Rest => continue,
                    Step::Offer => {
                        offers += 1;
                        end.note(What::Offer([1; OFFER_WORDS]))
                    }
                    Step::Say(note) | Step::GiveUp(note) => note,
                    step => panic!("{step:?}"),
                };
                questions += u32::from(said.what == What::Broken);
                let Some(answer) = answer_without_end(said) else { continue };
                assert_eq!(end.handle(answer, now), Step::Rest);
                assert!(!end.is_held() && !end.is_whole(), "it goes by TCP");
            }
            // An offer that nobody answers is given up after a second, and so is the end that was made for it.
            assert!(if here < there { (8..25).contains(&offers) } else { offers == 0 }, "{offers} offers");
            assert!(questions <= offers + 1, "{questions} questions for {offers} offers");
        }
    }

    #[test]
    fn who_is_not_answered_says_so_from_the_second_question_on_until_the_answer_comes() {
        let begin = Instant::now();
        let mut end = Mending::new(3, 8, begin);
        assert!(!end.is_unanswered(begin + ASK_EVERY), "a whole one asks nothing");
        end.handle_sight(false, begin);
        let mut asked = 0;
        for step in 0..500 {
            let now = begin + MILLISECOND * step;
            asked += u32::from(end.poll(now) != Step::Rest);
            assert!(end.is_held());
            assert_eq!(end.is_unanswered(now), asked > 1, "{asked} questions");
        }
        let gone = end.note(What::Gone);
        end.handle(gone, begin + ASK_EVERY * 5);
        assert!(!end.is_held() && !end.is_unanswered(begin + ASK_EVERY * 6));
    }

    #[test]
    fn a_question_that_is_asked_again_puts_no_offer_off() {
        let now = Instant::now();
        let mut end = Mending::new(3, 8, now);
        let broken = Note { number: 0, what: What::Broken };
        let gone = Note { number: 0, what: What::Gone };
        assert_eq!(end.handle(broken, now), Step::GiveUp(gone));
        for _ in 0..20 {
            assert_eq!(end.handle(broken, now), Step::Say(gone));
        }
        assert_eq!(end.poll(now + FIRST_DELAY), Step::Offer);
        assert_eq!(end.delay, FIRST_DELAY * 2);
    }

    #[test]
    fn words_that_are_no_note_are_none() {
        for letter in
            [[0; LETTER_WORDS], [6, 0, 0, 0, 0, 0, 0, 0, 0], [1, 4, 1, 0, 0, 0, 0, 0, 0], [u64::MAX; LETTER_WORDS]]
        {
            assert_eq!(Note::parse(&letter), None);
        }
    }
}
