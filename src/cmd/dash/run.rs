//! The dashboard in a terminal: keys, events and time go into the state, effects come out, frames go to the screen.
//!
//! One task does all of it; the bus has a task of its own (`feed`), the terminal a thread (`terminal`). Ends with `q`,
//! Ctrl-C, a signal, or a terminal that is gone.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crossterm::event::{Event, EventStream};
use futures_util::{FutureExt as _, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::{
    alarm::{Alarm, Via},
    app::{App, Effect, Msg, Options},
    effects::Performer,
    feed::{News, Order},
    record::Recorder,
    terminal::Screen,
    view::{
        Hits,
        look::{Depth, Look},
        screen,
    },
};
use crate::shutdown::Shutdown;

/// No more than 30 frames a second.
const FRAME: Duration = Duration::from_millis(33);

/// How often the clock is looked at when nothing happens.
const CLOCK: Duration = Duration::from_millis(250);

/// How often it is when something fades.
const FADE: Duration = Duration::from_millis(100);

/// Batches that are taken before a frame is drawn.
const BATCHES: usize = 64;

/// What a clock shows. That of a recording goes with the recording.
#[derive(Debug)]
pub(super) enum Clock {
    System,
    /// The newest event's time, and when that was shown; from there time goes on so many times as fast.
    Recording {
        newest: Option<(Timestamp, Instant)>,
        speed: f64,
    },
}

impl Clock {
    pub(super) fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Recording { newest: None, .. } => Timestamp::UNIX_EPOCH,
            Self::Recording { newest: Some((at, since)), speed } => {
                let gone = SignedDuration::try_from_secs_f64(since.elapsed().as_secs_f64() * speed);
                gone.ok().and_then(|gone| at.checked_add(gone).ok()).unwrap_or(*at)
            }
        }
    }

    /// A recording has come to its end, and its time stands still.
    pub(super) fn stop(&mut self) {
        let now = self.now();
        if let Self::Recording { newest: Some(newest), speed } = self {
            (*newest, *speed) = ((now, Instant::now()), 0.0);
        }
    }

    /// A batch has come.
    pub(super) fn see(&mut self, batch: &[super::app::Arrived]) {
        let Self::Recording { newest, .. } = self else { return };
        let times = batch.iter().filter_map(|arrived| match &arrived.item {
            crate::bus::Item::Event(received) => received.at,
            crate::bus::Item::Gap { .. } | crate::bus::Item::CaughtUp => None,
        });
        let latest = times.chain(newest.map(|(at, _)| at)).max();
        *newest = latest.map(|at| (at, Instant::now()));
    }
}

/// Everything that the loop joins.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) options: Options,
    pub(super) depth: Depth,
    pub(super) clock: Clock,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) recorder: Option<Recorder>,
    pub(super) data_dir: PathBuf,
    pub(super) vias: Vec<Via>,
    pub(super) shutdown: Shutdown,
}

impl Dashboard {
    /// Runs until the person has had enough.
    ///
    /// # Errors
    /// A terminal that does not work; a recording that can't be written.
    pub(super) async fn run(
        mut self,
        prepare: impl FnOnce(&mut App) -> anyhow::Result<()>,
    ) -> anyhow::Result<App> {
        let mut app = App::new(self.options.clone());
        prepare(&mut app)?;
        let mut screen = Screen::take(app.size, &self.shutdown)?;
        let mut keys = EventStream::new();
        let alarm = Alarm::start(std::mem::take(&mut self.vias), &self.shutdown);
        let mut performer = Performer::new(self.orders.clone(), self.data_dir.clone(), alarm);
        let result = self.work(&mut app, &mut screen, &mut keys, &mut performer).await;
        screen.leave();
        if let Some(recorder) = &mut self.recorder {
            recorder.close()?;
        }
        result.map(|()| app)
    }

    async fn work(
        &mut self,
        app: &mut App,
        screen: &mut Screen,
        keys: &mut EventStream,
        performer: &mut Performer,
    ) -> anyhow::Result<()> {
        let mut hits = Hits::default();
        let mut drawn_at: Option<Instant> = None;
        let (mut skipped, mut is_read) = (0, false);
        let mut waits_since: Option<Instant> = None;
        let mut ticked_at = Instant::now();
        loop {
            if screen.is_gone() {
                return Ok(());
            }
            let is_due = drawn_at.is_none_or(|at| at.elapsed() >= FRAME);
            if app.is_dirty && is_due {
                if screen.is_idle() {
                    app.is_dirty = false;
                    waits_since = None;
                    let began = Instant::now();
                    let look = Look::of(app, self.depth);
                    screen.draw(|frame| hits = screen::draw(frame, app, &look))?;
                    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    drawn_at = Some(began);
                    let resident = resident();
                    app.update(
                        Msg::Drawn { micros, skipped: std::mem::take(&mut skipped), resident },
                        self.clock.now(),
                    );
                } else if waits_since.is_none_or(|since| since.elapsed() >= FRAME) {
                    // A frame that would have been drawn now.
                    skipped += 1;
                    waits_since = Some(Instant::now());
                }
            }
            let pause = match app.is_animating() {
                _ if app.is_dirty || app.typed.is_some() => FRAME,
                true => FADE,
                false => CLOCK,
            };
            let mut msgs = Vec::new();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Ok(()),
                event = keys.next() => match event {
                    Some(Ok(event)) => msgs.extend(msg_of(&event, &hits)),
                    // Without keys there is no way to end it but a signal; a terminal that hung up is gone.
                    Some(Err(_)) | None => return Ok(()),
                },
                news = self.news.recv(), if !is_read => self.take(news, &mut is_read, &mut msgs)?,
                () = screen.wrote() => {}
                () = tokio::time::sleep(pause) => {}
                () = std::future::ready(()), if app.matches.is_searching() => {}
            }
            // What is here already goes into the same frame.
            for _ in 0..BATCHES {
                let Some(Some(news)) = self.news.recv().now_or_never() else { break };
                self.take(Some(news), &mut is_read, &mut msgs)?;
            }
            // Events may come so quickly that there is never a pause.
            let gone = ticked_at.elapsed();
            if gone >= pause {
                ticked_at = Instant::now();
                msgs.push(Msg::Tick(gone));
            }
            let now = self.clock.now();
            for msg in msgs {
                if let Msg::Resize(width, height) = msg {
                    screen.resize((width, height))?;
                }
                for effect in app.update(msg, now) {
                    if effect == Effect::Quit {
                        return Ok(());
                    }
                    if let Some(told) = performer.perform(effect, app, screen) {
                        app.update(Msg::Told(told), now);
                    }
                }
            }
            app.search_on();
        }
    }

    fn take(&mut self, news: Option<News>, is_read: &mut bool, msgs: &mut Vec<Msg>) -> anyhow::Result<()> {
        match news {
            Some(News::Batch(batch)) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.write(&batch)?;
                }
                self.clock.see(&batch);
                msgs.push(Msg::Batch(batch));
            }
            Some(News::Link(link)) => {
                if link == super::app::Link::Ended {
                    self.clock.stop();
                }
                msgs.push(Msg::Link(link));
            }
            Some(News::CaughtUp) => {}
            Some(News::History(has_history)) => msgs.push(Msg::History(has_history)),
            Some(News::Page(reading, page)) => msgs.push(Msg::Page(reading, page)),
            None => *is_read = true,
        }
        Ok(())
    }
}

fn msg_of(event: &Event, hits: &Hits) -> Option<Msg> {
    match event {
        Event::Key(key) => Some(Msg::Key(*key)),
        Event::Mouse(mouse) => Some(Msg::Mouse(*mouse, hits.at(mouse.column, mouse.row))),
        Event::Paste(text) => Some(Msg::Paste(text.clone())),
        Event::Resize(width, height) => Some(Msg::Resize(*width, *height)),
        Event::FocusGained | Event::FocusLost => None,
    }
}

/// Bytes of memory that this process has, as the kernel counts them; 0 where it does not tell.
pub(super) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(4096)
}
