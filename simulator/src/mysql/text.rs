//! Text in columns with the collation `utf8mb4_bin`.

use super::error::ServerError;
use std::cmp::Ordering;
use std::rc::Rc;

/// Text as a `utf8mb4_bin` column compares it: by code points, the shorter one padded with spaces (its pad attribute is
/// PAD SPACE), so `"a"` equals `"a "`. The order of UTF-8's bytes is the order of the code points.
#[derive(Debug, Clone)]
pub struct Padded(Rc<str>);

impl Padded {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for Padded {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        let common = a.len().min(b.len());
        let beyond_spaces = |rest: Option<&[u8]>| {
            rest.unwrap_or_default().iter().find(|byte| **byte != b' ').map_or(Ordering::Equal, |byte| byte.cmp(&b' '))
        };
        a.get(..common)
            .cmp(&b.get(..common))
            .then_with(|| beyond_spaces(a.get(common..)))
            .then_with(|| beyond_spaces(b.get(common..)).reverse())
    }
}

impl PartialOrd for Padded {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Padded {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Padded {}

/// `text` as a VARCHAR of `limit` characters takes it: what is too long is an error in strict mode, but for spaces at
/// the end, which are cut off in every mode.
pub(super) fn varchar<'a>(text: &'a str, limit: usize, column: &str, row: usize) -> Result<&'a str, ServerError> {
    // The common case, without counting characters.
    if text.len() <= limit {
        return Ok(text);
    }
    match text.char_indices().nth(limit) {
        None => Ok(text),
        Some((end, _)) => match text.split_at(end) {
            (kept, rest) if rest.bytes().all(|byte| byte == b' ') => Ok(kept),
            _ => Err(ServerError::too_long(column, row)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_spaces_count_as_none() {
        let order = |a: &str, b: &str| Padded::new(a).cmp(&Padded::new(b));
        assert_eq!(order("a", "a  "), Ordering::Equal);
        assert_eq!(order("a\u{1}", "a"), Ordering::Less, "a space is greater than a control character");
        assert_eq!(order("a!", "a"), Ordering::Greater);
        assert_eq!(order("a  !", "a"), Ordering::Greater);
        assert_eq!(order("A", "a"), Ordering::Less);
        assert_eq!(order("e\u{301}", "é"), Ordering::Less, "no normalisation");
        assert_eq!(order("", "  "), Ordering::Equal);
    }

    #[test]
    fn a_length_counts_characters() {
        let of = |text: &str| varchar(text, 3, "c", 1).map(str::to_owned).map_err(|error| error.number);
        assert_eq!(of("äöü"), Ok("äöü".to_owned()));
        assert_eq!(of("äöü  "), Ok("äöü".to_owned()));
        assert_eq!(of("äöüx"), Err(1406));
        assert_eq!(of("ab  x"), Err(1406));
    }
}
