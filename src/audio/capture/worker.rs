//! The microphone's thread without its loop: opens, empties the ring, resamples, reports, reopens. Knows the
//! sound card only through [`Backend`] and time only as an argument, so all of it is tested without either.

use std::{
    any::Any,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{info, warn};

use super::{CaptureEvent, CaptureOptions, DropCause};
use crate::audio::{AudioError, SAMPLE_RATE_HZ, resample::Resampler};

/// The ring between the callback and the thread: two seconds at 48 kHz.
const RING_SAMPLES: usize = 96_000;
/// A chunk is sent as soon as there is this much: 20 ms.
const CHUNK_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 50;
/// A device that gives nothing for so long is lost, whatever its driver says.
const STALLED_AFTER: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(8);

/// What can open a device.
pub(super) trait Backend {
    /// Opens a device that writes into `sink` until the returned stream is dropped.
    fn open(&mut self, options: &CaptureOptions, sink: Sink) -> Result<Opened, AudioError>;
}

/// A device that records.
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) rate_hz: u32,
    /// Whatever keeps the device open.
    pub(super) stream: Box<dyn Any>,
}

/// What the callback and the thread both see: only atomics.
#[derive(Debug, Default)]
pub(super) struct Signals {
    overrun_frames: AtomicU64,
    lost: AtomicBool,
}

impl Signals {
    /// The device is gone; said by the driver's error callback.
    pub(super) fn set_lost(&self) {
        self.lost.store(true, Ordering::Release);
    }
}

/// The callback's end of the ring.
pub(super) struct Sink {
    ring: Producer<f32>,
    signals: Arc<Signals>,
}

impl Sink {
    pub(super) fn signals(&self) -> Arc<Signals> {
        self.signals.clone()
    }

    /// Mixes interleaved frames into the ring. Real-time safe: no allocation, no lock, no system call.
    pub(super) fn push<T: Copy>(&mut self, interleaved: &[T], channels: usize, to_f32: impl Fn(T) -> f32) {
        let scale = 1.0 / channels.max(1) as f32;
        let mut missed = 0;
        for frame in interleaved.chunks_exact(channels.max(1)) {
            let mono = frame.iter().map(|sample| to_f32(*sample)).sum::<f32>() * scale;
            let clean = if mono.is_finite() { mono.clamp(-1.0, 1.0) } else { 0.0 };
            if self.ring.push(clean).is_err() {
                missed += 1;
            }
        }
        if missed > 0 {
            self.signals.overrun_frames.fetch_add(missed, Ordering::Relaxed);
        }
    }
}

struct Session {
    name: String,
    /// Dropped first: no callback may run when the ring goes.
    _stream: Box<dyn Any>,
    ring: Consumer<f32>,
    signals: Arc<Signals>,
    resampler: Resampler,
    heard_at: Option<Duration>,
}

/// The capture thread's state.
pub(super) struct Worker<B> {
    backend: B,
    options: CaptureOptions,
    events: mpsc::Sender<CaptureEvent>,
    session: Option<Session>,
    retry_at: Duration,
    retry_after: Duration,
    /// Samples ready to be sent.
    ready: Vec<f32>,
    /// Samples that the consumer had no room for and has not been told of.
    unsent: u64,
}

impl<B: Backend> Worker<B> {
    pub(super) fn new(backend: B, options: CaptureOptions, events: mpsc::Sender<CaptureEvent>) -> Self {
        Self {
            backend,
            options,
            events,
            session: None,
            retry_at: Duration::ZERO,
            retry_after: RETRY_FIRST,
            ready: Vec::new(),
            unsent: 0,
        }
    }

    /// Opens the device; gives its name.
    pub(super) fn open(&mut self) -> Result<String, AudioError> {
        let (ring_in, ring) = RingBuffer::new(RING_SAMPLES);
        let signals = Arc::<Signals>::default();
        let opened = self.backend.open(&self.options, Sink { ring: ring_in, signals: signals.clone() })?;
        let resampler = Resampler::new(opened.rate_hz)
            .map_err(|error| AudioError::Device { device: opened.name.clone(), reason: error.to_string() })?;
        info!(device = opened.name, rate_hz = opened.rate_hz, "recording");
        let name = opened.name.clone();
        self.session = Some(Session {
            name: opened.name,
            _stream: opened.stream,
            ring,
            signals,
            resampler,
            heard_at: None,
        });
        Ok(name)
    }

    /// Does what is due at `now`. Breaks when nobody listens any more.
    pub(super) fn poll(&mut self, now: Duration) -> ControlFlow<()> {
        if self.events.is_closed() {
            return ControlFlow::Break(());
        }
        match self.session.take() {
            None if now >= self.retry_at => self.reopen(now),
            None => ControlFlow::Continue(()),
            Some(session) => self.serve(session, now),
        }
    }

    fn reopen(&mut self, now: Duration) -> ControlFlow<()> {
        match self.open() {
            Ok(device) => {
                self.retry_after = RETRY_FIRST;
                self.send(CaptureEvent::DeviceBack { device })
            }
            Err(error) => {
                self.retry_at = now + self.retry_after;
                self.retry_after = (self.retry_after * 2).min(RETRY_LONGEST);
                warn!(%error, next_try_s = self.retry_after.as_secs_f32(), "the microphone is still away");
                ControlFlow::Continue(())
            }
        }
    }

    fn serve(&mut self, mut session: Session, now: Duration) -> ControlFlow<()> {
        // The flag first: what was written before it was set is still in the ring.
        let lost = session.signals.lost.load(Ordering::Acquire);
        let overrun = session.signals.overrun_frames.swap(0, Ordering::Relaxed);
        let available = session.ring.slots();
        if let Ok(chunk) = session.ring.read_chunk(available) {
            let (first, second) = chunk.as_slices();
            session.resampler.push(first, &mut self.ready);
            session.resampler.push(second, &mut self.ready);
            chunk.commit_all();
        }
        if available > 0 || session.heard_at.is_none() {
            session.heard_at = Some(now);
        }
        if overrun > 0 {
            let rate_hz = u64::from(session.resampler.rate_hz());
            let samples = overrun * u64::from(SAMPLE_RATE_HZ) / rate_hz;
            warn!(samples, "the machine was too busy to record");
            self.send_ready(0)?;
            self.send(CaptureEvent::Dropped { samples, cause: DropCause::Overrun })?;
        }
        let stalled = session.heard_at.is_some_and(|heard| now.saturating_sub(heard) > STALLED_AFTER);
        if lost || stalled {
            session.resampler.finish(&mut self.ready);
            self.send_ready(0)?;
            let device = session.name;
            warn!(device, stalled, "the microphone was lost");
            self.retry_at = now + RETRY_FIRST;
            self.retry_after = RETRY_FIRST;
            return self.send(CaptureEvent::DeviceLost(AudioError::DeviceLost { device }));
        }
        self.session = Some(session);
        self.send_ready(CHUNK_SAMPLES)
    }

    /// Sends what is ready, in chunks, if there is at least `least`.
    fn send_ready(&mut self, least: usize) -> ControlFlow<()> {
        if self.ready.is_empty() || self.ready.len() < least {
            return ControlFlow::Continue(());
        }
        let samples = std::mem::take(&mut self.ready);
        self.send(CaptureEvent::Samples(samples))
    }

    /// Never waits: the device does not either.
    fn send(&mut self, event: CaptureEvent) -> ControlFlow<()> {
        if self.unsent > 0 {
            let report = CaptureEvent::Dropped { samples: self.unsent, cause: DropCause::SlowConsumer };
            match self.events.try_send(report) {
                Ok(()) => self.unsent = 0,
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Closed(_)) => return ControlFlow::Break(()),
            }
        }
        match self.events.try_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(TrySendError::Full(CaptureEvent::Samples(samples))) => {
                if self.unsent == 0 {
                    warn!("nobody takes the microphone's samples; they are dropped until somebody does");
                }
                self.unsent += samples.len() as u64;
                ControlFlow::Continue(())
            }
            Err(TrySendError::Full(CaptureEvent::Dropped { samples, .. })) => {
                self.unsent += samples;
                ControlFlow::Continue(())
            }
            Err(TrySendError::Full(event)) => {
                warn!(?event, "nobody takes the microphone's events");
                ControlFlow::Continue(())
            }
            Err(TrySendError::Closed(_)) => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Devices that are opened in turn; the test holds their sinks and plays the sound card.
    #[derive(Clone, Default)]
    struct FakeCard(Rc<RefCell<Card>>);

    #[derive(Default)]
    struct Card {
        answers: VecDeque<Result<u32, AudioError>>,
        sink: Option<Sink>,
        opened: usize,
    }

    impl Backend for FakeCard {
        fn open(&mut self, _: &CaptureOptions, sink: Sink) -> Result<Opened, AudioError> {
            let mut card = self.0.borrow_mut();
            card.opened += 1;
            let rate_hz = card.answers.pop_front().unwrap()?;
            card.sink = Some(sink);
            Ok(Opened { name: "fake".to_owned(), rate_hz, stream: Box::new(()) })
        }
    }

    impl FakeCard {
        fn answer(&self, answer: Result<u32, AudioError>) {
            self.0.borrow_mut().answers.push_back(answer);
        }
        fn play(&self, interleaved: &[f32], channels: usize) {
            self.0.borrow_mut().sink.as_mut().unwrap().push(interleaved, channels, |s| s);
        }
        fn lose(&self) {
            self.0.borrow().sink.as_ref().unwrap().signals().set_lost();
        }
    }

    fn setup(rate_hz: u32, queue: usize) -> (FakeCard, Worker<FakeCard>, mpsc::Receiver<CaptureEvent>) {
        let card = FakeCard::default();
        card.answer(Ok(rate_hz));
        let (tx, rx) = mpsc::channel(queue);
        let mut worker = Worker::new(card.clone(), CaptureOptions::default(), tx);
        assert_eq!(worker.open().unwrap(), "fake");
        (card, worker, rx)
    }

    fn gone() -> AudioError {
        AudioError::DeviceLost { device: "fake".to_owned() }
    }

    fn samples(rx: &mut mpsc::Receiver<CaptureEvent>) -> Vec<f32> {
        let mut all = Vec::new();
        while let Ok(event) = rx.try_recv() {
            match event {
                CaptureEvent::Samples(chunk) => all.extend(chunk),
                other => panic!("{other:?}"),
            }
        }
        all
    }

    #[test]
    fn frames_are_mixed_cleaned_and_resampled() {
        let (card, mut worker, mut rx) = setup(16_000, 8);
        card.play(&[0.5, 0.3, f32::NAN, 0.1, 3.0, 3.0, -0.2, 0.2], 2);
        card.play(&vec![0.25; 640], 2);
        assert!(worker.poll(Duration::ZERO).is_continue());
        let got = samples(&mut rx);
        assert_eq!(got.len(), 324);
        assert_eq!(&got[..4], &[0.4, 0.0, 1.0, 0.0]);

        let (card, mut worker, mut rx) = setup(48_000, 64);
        for i in 0..100 {
            card.play(&[0.5; 480], 1);
            assert!(worker.poll(10 * MS * i).is_continue());
        }
        let got = samples(&mut rx);
        assert!((15_000..=16_000).contains(&got.len()), "{} samples of one second", got.len());
        assert!((got[8_000] - 0.5).abs() < 1e-3);
    }

    #[test]
    fn an_overrun_is_counted_where_it_happened() {
        let (card, mut worker, mut rx) = setup(48_000, 8);
        card.play(&vec![0.1; RING_SAMPLES + 4_800], 1);
        assert!(worker.poll(Duration::ZERO).is_continue());
        assert!(matches!(rx.try_recv(), Ok(CaptureEvent::Samples(_))));
        let dropped = rx.try_recv();
        assert!(
            matches!(dropped, Ok(CaptureEvent::Dropped { samples: 1_600, cause: DropCause::Overrun })),
            "{dropped:?}"
        );
    }

    #[test]
    fn a_slow_consumer_is_told_how_much_it_missed() {
        let (card, mut worker, mut rx) = setup(16_000, 2);
        for i in 0..5 {
            card.play(&[0.1; 320], 1);
            assert!(worker.poll(20 * MS * i).is_continue());
        }
        for _ in 0..2 {
            assert!(matches!(rx.try_recv(), Ok(CaptureEvent::Samples(chunk)) if chunk.len() == 320));
        }
        card.play(&[0.1; 320], 1);
        assert!(worker.poll(120 * MS).is_continue());
        assert!(matches!(
            rx.try_recv(),
            Ok(CaptureEvent::Dropped { samples: 960, cause: DropCause::SlowConsumer })
        ));
        assert!(matches!(rx.try_recv(), Ok(CaptureEvent::Samples(chunk)) if chunk.len() == 320));
    }

    #[test]
    fn a_lost_device_is_reported_once_and_reopened_with_growing_pauses() {
        let (card, mut worker, mut rx) = setup(16_000, 8);
        card.play(&[0.1; 100], 1);
        card.lose();
        assert!(worker.poll(Duration::ZERO).is_continue());
        assert!(
            matches!(rx.try_recv(), Ok(CaptureEvent::Samples(chunk)) if chunk.len() == 100),
            "the tail is kept"
        );
        assert!(matches!(rx.try_recv(), Ok(CaptureEvent::DeviceLost(AudioError::DeviceLost { .. }))));

        for _ in 0..3 {
            card.answer(Err(gone()));
        }
        card.answer(Ok(48_000));
        let mut tries = Vec::new();
        for ms in 0..3_000 {
            let before = card.0.borrow().opened;
            assert!(worker.poll(MS * ms).is_continue());
            if card.0.borrow().opened > before {
                tries.push(ms);
            }
            if tries.len() == 4 {
                break;
            }
        }
        assert_eq!(tries, [250, 500, 1_000, 2_000]);
        assert!(matches!(rx.try_recv(), Ok(CaptureEvent::DeviceBack { device }) if device == "fake"));
        assert!(rx.try_recv().is_err(), "the failed tries say nothing");
        card.play(&vec![0.1; 48_000], 1);
        assert!(worker.poll(3_000 * MS).is_continue());
        assert!(!samples(&mut rx).is_empty());
    }

    #[test]
    fn a_device_that_falls_silent_is_lost() {
        let (card, mut worker, mut rx) = setup(16_000, 8);
        card.play(&[0.1; 320], 1);
        assert!(worker.poll(Duration::ZERO).is_continue());
        assert!(worker.poll(STALLED_AFTER).is_continue());
        assert_eq!(samples(&mut rx).len(), 320);
        assert!(worker.poll(STALLED_AFTER + MS).is_continue());
        assert!(matches!(rx.try_recv(), Ok(CaptureEvent::DeviceLost(_))));
    }

    #[test]
    fn nobody_listening_ends_the_work() {
        let (_card, mut worker, rx) = setup(16_000, 8);
        drop(rx);
        assert!(worker.poll(Duration::ZERO).is_break());
    }
}
