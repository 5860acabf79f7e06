//! Whether another stream may be opened: a limit, and whether the machine keeps up with those it has. Pure: times are
//! seconds on any clock.

/// How long after a late result no stream is taken.
const LATE_S: f64 = 10.0;
/// Time constant of the mean that [`Admission::load`] is.
const LOAD_S: f64 = 10.0;

/// What is known about the machine's room for streams.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Admission {
    limit: usize,
    late: Option<(f64, f64)>,
    load: f64,
    updated: f64,
}

/// Why another stream is refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Refusal {
    /// Every slot is taken.
    Full,
    /// The machine is so many seconds behind.
    Late(f64),
}

impl Admission {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, late: None, load: 0.0, updated: 0.0 }
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    pub(super) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether one more than `active` streams would be too many.
    ///
    /// A machine that is late keeps no one out who is alone: that stream's hop grows instead.
    pub(super) fn check(&self, active: usize, now: f64) -> Result<(), Refusal> {
        if active >= self.limit {
            return Err(Refusal::Full);
        }
        match self.late {
            Some((at, lag_s)) if active > 0 && now - at < LATE_S => Err(Refusal::Late(lag_s)),
            _ => Ok(()),
        }
    }

    /// A result came so late that its stream's hop is stretched.
    pub(super) const fn late(&mut self, now: f64, lag_s: f64) {
        self.late = Some((now, lag_s));
    }

    /// The model worked for `took` seconds until now.
    pub(super) fn worked(&mut self, now: f64, took: f64) {
        let past = (now - self.updated).max(took).max(f64::MIN_POSITIVE);
        let weight = 1.0 - (-past / LOAD_S).exp();
        self.load += (took / past - self.load) * weight;
        self.updated = now;
    }

    /// Share of the last seconds that the model worked.
    pub(super) fn load(&self, now: f64) -> f64 {
        self.load * (-(now - self.updated).max(0.0) / LOAD_S).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_engine_refuses() {
        let admission = Admission::new(2);
        assert_eq!(admission.check(1, 0.0), Ok(()));
        assert_eq!(admission.check(2, 0.0), Err(Refusal::Full));
    }

    #[test]
    fn a_late_machine_refuses_for_a_while_unless_it_has_nothing_to_do() {
        let mut admission = Admission::new(9);
        admission.late(100.0, 3.5);
        assert_eq!(admission.check(1, 105.0), Err(Refusal::Late(3.5)));
        assert_eq!(admission.check(0, 105.0), Ok(()));
        assert_eq!(admission.check(1, 111.0), Ok(()));
    }

    #[test]
    fn the_load_is_a_mean_over_the_last_seconds() {
        let mut admission = Admission::new(1);
        for second in 1..=60 {
            admission.worked(f64::from(second), 0.5);
        }
        assert!((admission.load(60.0) - 0.5).abs() < 0.01);
        assert!(admission.load(90.0) < 0.05);
    }
}
