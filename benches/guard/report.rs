//! Summaries of rollouts, and the table.

/// When one rollout was rolled back, in seconds, and by what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub guard: Option<f64>,
    pub flagger: Option<f64>,
    pub fixed: Option<f64>,
}

/// Times to detection of one judge.
pub struct Times(Vec<f64>);

impl Times {
    pub fn new(outcomes: &[Outcome], of: fn(&Outcome) -> Option<f64>) -> Self {
        let mut times: Vec<f64> = outcomes
            .iter()
            .map(|outcome| of(outcome).unwrap_or(f64::INFINITY))
            .collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Percent of the rollouts that were rolled back.
    pub fn failed(&self) -> f64 {
        let failed = self.0.iter().filter(|t| t.is_finite()).count();
        100.0 * failed as f64 / self.0.len().max(1) as f64
    }

    /// Whether at most 1 % were rolled back, but for two standard deviations of the sample.
    fn at_most_one_percent(&self) -> bool {
        self.failed() <= 1.0 + 2.0 * 100.0 * (0.01 * 0.99 / self.0.len() as f64).sqrt()
    }

    /// Infinite if fewer were rolled back.
    pub fn quantile(&self, q: f64) -> f64 {
        let at = (q * self.0.len() as f64) as usize;
        self.0.get(at).copied().unwrap_or(f64::INFINITY)
    }

    /// `38 / 75`, or the percentage if not even half were rolled back.
    pub fn show(&self) -> String {
        let (median, ninety) = (self.quantile(0.5), self.quantile(0.9));
        if median.is_infinite() {
            return format!("{:.0} % found", self.failed());
        }
        let ninety = if ninety.is_infinite() {
            "—".to_owned()
        } else {
            format!("{ninety:.0}")
        };
        format!("{median:.0} / {ninety}")
    }
}

/// What an independent implementation found, from which the product must not differ.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// Percent of A/A rollouts that were rolled back.
    False(f64),
    /// Median and 90 % of the seconds to detection. Infinite: not within the time.
    Seconds(f64, f64),
    /// Percent found, in cases where that is under half.
    Found(f64),
    /// Nothing to compare with: at most 1 % may be rolled back.
    AtMostOnePercent,
    /// The canary is on its limit, the worst case that must not fail.
    OnLimit,
    /// False alarms that the guard makes no promise about.
    Unbounded,
    /// Nothing to compare with.
    None,
}

impl Reference {
    pub fn show(self) -> String {
        match self {
            Self::False(percent) => format!("{percent:.2} %"),
            Self::Seconds(median, ninety) if ninety.is_infinite() => format!("{median:.0} / —"),
            Self::Seconds(median, ninety) => format!("{median:.0} / {ninety:.0}"),
            Self::Found(percent) => format!("{percent:.0} % found"),
            Self::AtMostOnePercent | Self::OnLimit | Self::Unbounded | Self::None => "—".to_owned(),
        }
    }

    /// Whether the product keeps its promise: at most 1 % false where the reference has no more, and a median that exceeds the
    /// reference's by at most 15 % or 1 s.
    pub fn holds(self, times: &Times) -> bool {
        match self {
            Self::False(percent) => percent > 1.0 || times.at_most_one_percent(),
            Self::AtMostOnePercent | Self::OnLimit => times.at_most_one_percent(),
            Self::Seconds(median, _) => times.quantile(0.5) - median <= (0.15 * median).max(1.0),
            Self::Found(_) | Self::Unbounded | Self::None => true,
        }
    }

    /// Returns [`holds`](Self::holds) in words.
    pub fn verdict(self, times: &Times) -> &'static str {
        match self {
            _ if !self.holds(times) => "**no**",
            Self::None | Self::Found(_) => "—",
            Self::Unbounded => "no promise",
            Self::False(percent) if percent > 1.0 => "no promise",
            Self::Seconds(..) => "yes",
            _ if times.failed() > 1.0 => "within the deviation",
            _ => "yes",
        }
    }

    pub fn is_false_alarms(self) -> bool {
        !matches!(self, Self::Seconds(..) | Self::Found(_) | Self::None)
    }
}
