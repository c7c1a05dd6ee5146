//! Notes of the ends of an RDMA connection: whatever is accepted is exactly what it would be packed to.

use phalanx::fabric::mending::{Note, OFFER_WORDS, What};
use phalanx::fabric::sim::Seeded;
use phalanx::fabric::tcp::frame::{LETTER_WORDS, Letter};

use crate::mutation::{bytes, number, spoil};
use crate::{Target, ensure};

pub(crate) struct Notes;

fn any_note(random: &mut Seeded) -> Note {
    let mut offer = || -> [u64; OFFER_WORDS] { std::array::from_fn(|_| number(random)) };
    let (first, second) = (What::Offer(offer()), What::Answer(offer()));
    let what = [What::Broken, What::Gone, first, second, What::Ready][random.below(5)];
    Note { number: number(random), what }
}

fn bytes_of(letter: &Letter) -> Vec<u8> {
    letter.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn letter_of(mut bytes: Vec<u8>) -> Letter {
    bytes.resize(8 * LETTER_WORDS, 0);
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

impl Target for Notes {
    fn case(&mut self, random: &mut Seeded) -> Result<(), String> {
        let note = any_note(random);
        let valid = note.encode();
        ensure(Note::parse(&valid) == Some(note), || format!("{note:?} is not what it was packed from"))?;
        let mut spoilt = if random.below(8) == 0 { bytes(random) } else { bytes_of(&valid) };
        spoil(random, &mut spoilt);
        let letter = letter_of(spoilt);
        let Some(parsed) = Note::parse(&letter) else { return Ok(()) };
        ensure(parsed.encode() == letter, || format!("{letter:?} is taken for {parsed:?}"))
    }
}
