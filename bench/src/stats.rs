//! Figures of several rounds: the median, and how far the others are from it.

use std::fmt;

/// Median, least and greatest of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median; of two in the middle their mean.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; not a number where there is none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2));
        Self { median: f64::midpoint(low, high), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }

    /// Of the quotients, round by round: whatever disturbed a round disturbed both sides of it.
    #[must_use]
    pub fn ratio(these: &[f64], those: &[f64]) -> Self {
        let quotients: Vec<f64> = these.iter().zip(those).map(|(this, that)| this / that).collect();
        Self::of(&quotients)
    }
}

/// `MEDIAN (MIN..MAX)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}..{})", short(self.median), short(self.min), short(self.max))
    }
}

/// A figure with about three digits that say something, thousands apart.
#[must_use]
pub fn short(figure: f64) -> String {
    match figure.abs() {
        n if n >= 1000.0 => thousands(figure),
        n if n >= 99.95 => format!("{figure:.0}"),
        n if n >= 9.995 => format!("{figure:.1}"),
        n if n >= 0.0995 => format!("{figure:.2}"),
        0.0 => "0".to_owned(),
        n if n >= 0.000_5 => format!("{figure:.4}"),
        _ => format!("{figure:.1e}"),
    }
}

fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if figure < 0.0 { format!("-{text}") } else { text }
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
    /// Told for its own sake.
    None,
}

/// A named result.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratio {
    /// Its stable name.
    pub name: String,
    /// The rounds.
    pub spread: Spread,
    /// What it should be.
    pub aim: Aim,
}

impl Ratio {
    /// The aim in words, and whether the median meets it.
    #[must_use]
    pub fn verdict(&self) -> (String, &'static str) {
        let word = |met: bool| if met { "met" } else { "missed" };
        match self.aim {
            Aim::AtLeast(aim) => (format!("at least {}", short(aim)), word(self.spread.median >= aim)),
            Aim::AtMost(aim) => (format!("at most {}", short(aim)), word(self.spread.median <= aim)),
            Aim::None => ("-".to_owned(), "-"),
        }
    }
}

/// The line that programs read. Plain digits: thousands are not set apart.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |n: f64| short(n).replace(',', "");
        let Spread { median, min, max } = self.spread;
        write!(f, "ratio {} {} ({}..{})", self.name, plain(median), plain(min), plain(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_tells_the_middle_and_both_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]).to_string(), "7.00 (7.00..7.00)");
        assert!(Spread::of(&[]).median.is_nan());
        assert_eq!(Spread::ratio(&[2.0, 9.0], &[1.0, 3.0]), Spread { median: 2.5, min: 2.0, max: 3.0 });
    }

    #[test]
    fn figures_are_as_long_as_they_deserve() {
        for (figure, text) in [
            (26_514.3, "26,514"),
            (1_000_000.0, "1,000,000"),
            (-1234.0, "-1,234"),
            (999.4, "999"),
            (12.34, "12.3"),
            (0.931, "0.93"),
            (0.0213, "0.0213"),
            (0.0, "0"),
            (0.000_01, "1.0e-5"),
        ] {
            assert_eq!(short(figure), text);
        }
    }

    #[test]
    fn a_result_is_one_line_and_has_a_verdict() {
        let ratio = |median: f64, aim| Ratio { name: "a.b".to_owned(), spread: Spread::of(&[median]), aim };
        assert_eq!(ratio(0.93, Aim::None).to_string(), "ratio a.b 0.93 (0.93..0.93)");
        assert_eq!(ratio(1234.0, Aim::None).to_string(), "ratio a.b 1234 (1234..1234)");
        assert_eq!(ratio(0.93, Aim::AtLeast(0.9)).verdict(), ("at least 0.90".to_owned(), "met"));
        assert_eq!(ratio(0.11, Aim::AtMost(0.1)).verdict().1, "missed");
    }
}
