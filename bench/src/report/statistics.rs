//! Medians and spreads.

/// Values of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The lowest.
    pub lowest: f64,
    /// The highest.
    pub highest: f64,
    /// How many there are.
    pub rounds: usize,
}

impl Spread {
    /// None of nothing.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, lowest, highest, rounds: values.len() })
    }

    /// `median (lowest–highest)`, or the value alone if there is no other.
    pub fn print(&self, digits: usize) -> String {
        if self.rounds < 2 || format!("{:.digits$}", self.lowest) == format!("{:.digits$}", self.highest) {
            return format!("{:.digits$}", self.median);
        }
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.lowest, self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_what_is_printed() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0].into_iter()).unwrap();
        assert_eq!(spread.print(1), "2.5 (1.0–10.0)");
        assert_eq!(Spread::of([4.0].into_iter()).unwrap().print(0), "4");
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
