//! The job's key and what it seals: HMAC-SHA256 over a label and what was said, compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a MAC is for. All labels have one length, so that no label and message are another label and message.
pub(super) type Label = [u8; 16];
pub(super) const SERVER_LABEL: Label = *b"phalanx server 1";
pub(super) const CLIENT_LABEL: Label = *b"phalanx client 1";
pub(super) const VERDICT_LABEL: Label = *b"phalanx verdict1";
const TAG_LABEL: Label = *b"phalanx job tag1";

/// The job's secret: only processes that know it are its ranks.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// A key from its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new key.
    ///
    /// # Errors
    ///
    /// When the kernel has no random numbers.
    pub fn random() -> std::io::Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Equality in constant time, for keys that came from somebody else.
    pub fn matches(&self, other: &[u8]) -> bool {
        let difference = self.0.iter().zip(other).fold(0, |sum, (left, right)| sum | (left ^ right));
        other.len() == self.0.len() && std::hint::black_box(difference) == 0
    }

    /// A key from 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    fn mac(&self, label: Label, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        mac.update(&label);
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    pub(super) fn seal(&self, label: Label, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(label, parts).finalize().into_bytes().into()
    }

    /// Whether `seal` is what this key makes of it; in constant time.
    pub(super) fn has_sealed(&self, label: Label, parts: &[&[u8]], seal: &[u8]) -> bool {
        self.mac(label, parts).verify_slice(seal).is_ok()
    }

    /// What a hello shows of the job, so that ranks of another job are told so.
    pub(super) fn tag(&self) -> [u8; 16] {
        self.seal(TAG_LABEL, &[])[..16].try_into().expect("half of it")
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// Random bytes of the kernel.
///
/// # Errors
///
/// When it has none.
pub fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    // The kernel gives up to 256 bytes at once or not at all.
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without its label a seal could serve in another role.
    #[test]
    fn what_is_sealed_in_one_role_is_not_in_another() {
        let labels = [SERVER_LABEL, CLIENT_LABEL, VERDICT_LABEL, TAG_LABEL];
        let key = Key::new([7; 32]);
        for (index, sealed) in labels.into_iter().enumerate() {
            let seal = key.seal(sealed, &[b"said"]);
            for (other, label) in labels.into_iter().enumerate() {
                assert_eq!(key.has_sealed(label, &[b"said"], &seal), other == index);
            }
            assert!(!key.has_sealed(sealed, &[b"sai"], &seal) && !key.has_sealed(sealed, &[b"said"], &seal[..31]));
        }
    }
}
