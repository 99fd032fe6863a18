//! Figures of several rounds, and what they should be.

use dropgate_burst::report::grouped;
use std::fmt;

/// Median, minimum and maximum of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// For an even number of rounds the mean of the middle two.
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// NaN for no figures.
    #[must_use]
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(sorted.len() / 2)), min: at(0), max: at(last) }
    }

    /// Of the quotients, round by round: a disturbance of one round affects both sides of its quotient.
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

/// About three significant digits, with a thousands separator.
#[must_use]
pub fn short(figure: f64) -> String {
    let sign = if figure < 0.0 { "-" } else { "" };
    match figure.abs() {
        n if n >= 1000.0 => format!("{sign}{}", grouped(n.round() as u64)),
        n if n >= 99.95 => format!("{figure:.0}"),
        n if n >= 9.995 => format!("{figure:.1}"),
        n if n >= 0.0995 => format!("{figure:.2}"),
        0.0 => "0".to_owned(),
        n if n >= 0.000_5 => format!("{figure:.4}"),
        _ => format!("{figure:.1e}"),
    }
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Reported without a target.
    None,
}

/// A named result.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratio {
    pub name: String,
    pub spread: Spread,
    pub target: Target,
}

impl Ratio {
    /// The target in words, and whether the median meets it.
    #[must_use]
    pub fn verdict(&self) -> (String, &'static str) {
        let word = |met: bool| if met { "met" } else { "missed" };
        match self.target {
            Target::AtLeast(target) => (format!("at least {}", short(target)), word(self.spread.median >= target)),
            Target::AtMost(target) => (format!("at most {}", short(target)), word(self.spread.median <= target)),
            Target::None => ("-".to_owned(), "-"),
        }
    }
}

/// The line for programs, without a thousands separator.
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
    fn a_spread_has_the_median_and_both_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]).to_string(), "7.00 (7.00..7.00)");
        assert!(Spread::of(&[]).median.is_nan());
        assert_eq!(Spread::ratio(&[2.0, 9.0], &[1.0, 3.0]), Spread { median: 2.5, min: 2.0, max: 3.0 });
    }

    #[test]
    fn figures_have_about_three_digits() {
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
        let ratio = |median: f64, target| Ratio { name: "a.b".to_owned(), spread: Spread::of(&[median]), target };
        assert_eq!(ratio(0.93, Target::None).to_string(), "ratio a.b 0.93 (0.93..0.93)");
        assert_eq!(ratio(1234.0, Target::None).to_string(), "ratio a.b 1234 (1234..1234)");
        assert_eq!(ratio(0.93, Target::AtLeast(0.9)).verdict(), ("at least 0.90".to_owned(), "met"));
        assert_eq!(ratio(0.11, Target::AtMost(0.1)).verdict().1, "missed");
    }
}
