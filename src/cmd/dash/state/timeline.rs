//! Events over time: how many of each domain came in each second, ten seconds and minute, and which of these numbers
//! are out of the ordinary. Pure.
//!
//! Events count at the time at which the bus took them, so that the history fills the past: what [`Timeline::take`]
//! gets may be of any age, in any order.

use jiff::Timestamp;

use super::{Name, tallies::Seen};

/// Domains that are counted on their own; more than these no person tells apart by colours.
const DOMAINS: usize = 24;

/// The domains, and all others together at the end.
pub(in crate::cmd::dash) const SERIES: usize = DOMAINS + 1;

/// Seconds of a bucket and how many of them are kept: ten minutes, two hours, a day. About 300 KB in all.
const RINGS: [(i64, usize); 3] = [(1, 600), (10, 720), (60, 1440)];

/// Minutes before the last one that say what is ordinary.
const ORDINARY: i64 = 30;

/// With fewer minutes than these nothing is said to be out of the ordinary.
const LEAST_MINUTES: i64 = 10;

/// So many deviations from the mean are out of the ordinary,
const DEVIATIONS: f64 = 4.0;

/// if they are as many events a minute at least.
const LEAST_EVENTS: f64 = 10.0;

/// What was counted in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Sums {
    /// In the order of [`Timeline::domains`]; at the end all other domains.
    pub(in crate::cmd::dash) domains: [u64; SERIES],
    /// Of them, those whose type says that something went wrong.
    pub(in crate::cmd::dash) errors: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self { domains: [0; SERIES], errors: 0 }
    }
}

impl Sums {
    pub(in crate::cmd::dash) fn events(&self) -> u64 {
        self.domains.iter().sum()
    }

    pub(in crate::cmd::dash) fn add(&mut self, other: &Self) {
        for (sum, more) in self.domains.iter_mut().zip(other.domains) {
            *sum += more;
        }
        self.errors += other.errors;
    }
}

/// Counts of one bucket.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Its number since the epoch.
    number: i64,
    domains: [u32; SERIES],
    errors: u32,
}

impl Slot {
    const fn of(number: i64) -> Self {
        Self { number, domains: [0; SERIES], errors: 0 }
    }
}

#[derive(Debug)]
struct Ring {
    /// Seconds of a bucket.
    seconds: i64,
    slots: Box<[Slot]>,
}

impl Ring {
    fn len(&self) -> i64 {
        self.slots.len() as i64
    }

    fn place(&self, number: i64) -> usize {
        usize::try_from(number.rem_euclid(self.len().max(1))).unwrap_or(0)
    }

    fn count(&mut self, second: i64, series: usize, is_error: bool, now: i64) {
        let (number, newest) = (second.div_euclid(self.seconds), now.div_euclid(self.seconds));
        if newest - number >= self.len() {
            return;
        }
        let place = self.place(number);
        let Some(slot) = self.slots.get_mut(place) else { return };
        // What else can be here is too old, or comes from a clock that was set back.
        if slot.number != number {
            *slot = Slot::of(number);
        }
        if let Some(count) = slot.domains.get_mut(series) {
            *count = count.saturating_add(1);
        }
        slot.errors = slot.errors.saturating_add(u32::from(is_error));
    }

    fn slot(&self, number: i64) -> Option<&Slot> {
        self.slots.get(self.place(number)).filter(|slot| slot.number == number)
    }

    /// Events of a series in so many buckets.
    fn events(&self, series: usize, from: i64, buckets: i64) -> u64 {
        let counts = (from..from + buckets).filter_map(|number| self.slot(number)?.domains.get(series));
        counts.map(|count| u64::from(*count)).sum()
    }
}

/// A rate that is far from what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::cmd::dash) struct Anomaly {
    /// Events of the last minute.
    pub(in crate::cmd::dash) count: u64,
    /// Events a minute before that, and how far they are from it as a rule (the standard deviation).
    pub(in crate::cmd::dash) mean: f64,
    pub(in crate::cmd::dash) deviation: f64,
    /// Minutes that the mean is of.
    pub(in crate::cmd::dash) minutes: usize,
}

impl Anomaly {
    #[allow(clippy::cast_precision_loss, reason = "counts of a minute")]
    pub(in crate::cmd::dash) fn is_high(&self) -> bool {
        self.count as f64 > self.mean
    }
}

/// What came when.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Timeline {
    /// In the order in which they came.
    domains: Vec<Name>,
    rings: [Ring; RINGS.len()],
    /// Second from which on all is known: when the dashboard began, or of the oldest event.
    since: i64,
    /// The second of the oldest event and that of the newest one.
    span: Option<(i64, i64)>,
}

impl Timeline {
    /// Nothing was counted yet; from now on all is.
    pub(in crate::cmd::dash) fn new(now: Timestamp) -> Self {
        let ring = |(seconds, len): (i64, usize)| Ring {
            seconds,
            slots: vec![Slot::of(i64::MIN); len].into_boxed_slice(),
        };
        Self { domains: Vec::new(), rings: RINGS.map(ring), since: now.as_second(), span: None }
    }

    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        self.count(seen.row.taken, &seen.row.domain, seen.row.is_error, seen.now);
    }

    /// Counts an event that the bus took at a time, however long ago. What a clock says that is ahead counts now.
    pub(in crate::cmd::dash) fn count(
        &mut self,
        taken: Timestamp,
        domain: &Name,
        is_error: bool,
        now: Timestamp,
    ) {
        let series = self.series(domain);
        let now = now.as_second();
        let second = taken.as_second().min(now);
        self.since = self.since.min(second);
        let (first, last) = self.span.unwrap_or((second, second));
        self.span = Some((first.min(second), last.max(second)));
        for ring in &mut self.rings {
            ring.count(second, series, is_error, now);
        }
    }

    fn series(&mut self, domain: &Name) -> usize {
        if let Some(series) = self.domains.iter().position(|known| known == domain) {
            return series;
        }
        if self.domains.len() < DOMAINS {
            self.domains.push(Name::clone(domain));
            return self.domains.len() - 1;
        }
        DOMAINS
    }

    /// The domains that are counted on their own.
    pub(in crate::cmd::dash) fn domains(&self) -> &[Name] {
        &self.domains
    }

    /// The second of the oldest event and that of the newest one.
    pub(in crate::cmd::dash) const fn span(&self) -> Option<(i64, i64)> {
        self.span
    }

    /// The coarsest counts that a column of so many seconds can be made of.
    fn ring(&self, seconds: i64) -> &Ring {
        let [first, ..] = &self.rings;
        self.rings.iter().rev().find(|ring| seconds % ring.seconds == 0).unwrap_or(first)
    }

    /// How many seconds back is counted for columns of so many seconds.
    pub(in crate::cmd::dash) fn reach(&self, seconds: i64) -> i64 {
        let ring = self.ring(seconds);
        ring.seconds * ring.len()
    }

    /// What came in so many seconds from this one on (a multiple of them).
    pub(in crate::cmd::dash) fn sums(&self, from: i64, seconds: i64) -> Sums {
        let ring = self.ring(seconds);
        let number = from.div_euclid(ring.seconds);
        let mut sums = Sums::default();
        for slot in (number..number + seconds / ring.seconds).filter_map(|number| ring.slot(number)) {
            for (sum, count) in sums.domains.iter_mut().zip(slot.domains) {
                *sum += u64::from(count);
            }
            sums.errors += u64::from(slot.errors);
        }
        sums
    }

    /// Whether the last full minute of a series is far from the up to 30 minutes before it: more than four standard
    /// deviations and at least ten events. Nothing is said before ten minutes are known. A minute in which nothing
    /// came counts as one, whatever the reason was. Minutes end with a full ten seconds.
    #[allow(clippy::cast_precision_loss, reason = "counts of a minute")]
    pub(in crate::cmd::dash) fn anomaly(&self, series: usize, now: Timestamp) -> Option<Anomaly> {
        let [_, ring, _] = &self.rings;
        let buckets = 60 / ring.seconds;
        let end = now.as_second().div_euclid(ring.seconds);
        // The bucket in which it began is not whole.
        let known = end - buckets - (self.since.div_euclid(ring.seconds) + 1);
        let minutes = (known / buckets).min(ORDINARY);
        if minutes < LEAST_MINUTES {
            return None;
        }
        let count = ring.events(series, end - buckets, buckets);
        let before = |minute: i64| ring.events(series, end - buckets - minute * buckets, buckets) as f64;
        let (mut sum, mut squares) = (0.0, 0.0);
        for minute in 1..=minutes {
            sum += before(minute);
        }
        let mean = sum / minutes as f64;
        for minute in 1..=minutes {
            squares += (before(minute) - mean).powi(2);
        }
        let deviation = (squares / minutes as f64).sqrt();
        let far = (count as f64 - mean).abs();
        let is_far = far > DEVIATIONS * deviation && far >= LEAST_EVENTS;
        is_far.then_some(Anomaly { count, mean, deviation, minutes: usize::try_from(minutes).unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::testing::at, *};

    fn name(text: &str) -> Name {
        text.into()
    }

    proptest! {
        #[test]
        fn buckets_hold_each_event_once_whatever_their_order(
            events in proptest::collection::vec((0_i64..90_000, 0_usize..40, any::<bool>()), 0..400),
        ) {
            let now = at(0);
            let mut timeline = Timeline::new(now);
            for (ago, domain, is_error) in &events {
                timeline.count(at(-ago), &name(&format!("d{domain}")), *is_error, now);
            }
            for seconds in [1, 10, 60, 300] {
                let reach = timeline.reach(seconds);
                let end = now.as_second().div_euclid(seconds) * seconds + seconds;
                let mut sums = Sums::default();
                for column in 1..=reach / seconds {
                    sums.add(&timeline.sums(end - column * seconds, seconds));
                }
                let within: Vec<_> =
                    events.iter().filter(|(ago, ..)| at(-ago).as_second() >= end - reach).collect();
                prop_assert_eq!(sums.events(), within.len() as u64);
                prop_assert_eq!(sums.errors, within.iter().filter(|(.., is_error)| *is_error).count() as u64);
                for (series, domain) in timeline.domains().iter().enumerate() {
                    let own = within.iter().filter(|(_, number, _)| **domain == *format!("d{number}")).count();
                    prop_assert_eq!(sums.domains[series], own as u64);
                }
            }
        }
    }

    #[test]
    fn what_is_too_old_is_left_out_and_what_is_ahead_counts_now() {
        let mut timeline = Timeline::new(at(0));
        let voice = name("voice");
        timeline.count(at(500), &voice, false, at(0));
        timeline.count(at(-86_400), &voice, false, at(0));
        assert_eq!(timeline.sums(at(0).as_second(), 1).events(), 1);
        // The next round of the ring.
        timeline.count(at(600), &voice, true, at(600));
        assert_eq!(timeline.sums(at(0).as_second(), 1).events(), 0);
        assert_eq!(timeline.sums(at(600).as_second(), 1), timeline.sums(at(600).as_second(), 10));
        // A clock that was set back.
        timeline.count(at(0), &voice, false, at(0));
        assert_eq!(timeline.sums(at(0).as_second(), 1).events(), 1);
        assert_eq!(timeline.span(), Some((at(-86_400).as_second(), at(600).as_second())));
    }

    #[test]
    fn a_rate_is_marked_when_it_is_far_from_its_own_past() {
        let mut timeline = Timeline::new(at(0));
        let (voice, agent) = (name("voice"), name("agent"));
        // Twelve minutes of 20 or 22 a minute.
        for second in 0..720 {
            let extra = second % 120 == 7 || second % 120 == 8;
            if second % 3 == 0 || extra {
                timeline.count(at(second), &voice, false, at(second));
            }
        }
        assert_eq!(timeline.anomaly(0, at(480)), None, "too little is known");
        assert_eq!(timeline.anomaly(0, at(720)), None, "as ever");
        for n in 0..60 {
            timeline.count(at(720 + n), &agent, false, at(720 + n));
        }
        let quiet = timeline.anomaly(0, at(780)).unwrap();
        assert_eq!((quiet.count, quiet.is_high(), quiet.minutes), (0, false, 11));
        assert!((20.0..22.0).contains(&quiet.mean) && quiet.deviation < 1.5, "{quiet:?}");
        let new = timeline.anomaly(1, at(780)).unwrap();
        assert_eq!((new.count, new.is_high(), new.mean), (60, true, 0.0));
        // A few more than none are no matter.
        let tts = name("tts");
        for _ in 0..9 {
            timeline.count(at(775), &tts, false, at(775));
        }
        assert_eq!(timeline.anomaly(2, at(780)), None);
    }
}
