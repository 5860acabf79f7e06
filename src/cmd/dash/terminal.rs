//! The terminal: taken over at the start, given back at the end, whatever happens between.
//!
//! Frames are drawn into memory and written by a thread of their own (`dash-screen`), because a terminal may be slow, or
//! stop taking anything at all: then frames are left out and events are not. The thread ends when the [`Screen`] is
//! dropped; one that hangs in a write is left behind.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use crossterm::{
    Command as _, cursor,
    event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture},
    terminal::{
        BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
        LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    },
};
use parking_lot::Mutex;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use tokio::sync::Notify;

use crate::shutdown::Shutdown;

/// How long a terminal may take for what was begun before the end: a few chunks at 9600 baud.
const FAREWELL: Duration = Duration::from_secs(3);

/// Bytes that are written in one go; what lies behind can still be left out.
const CHUNK: usize = 512;

/// True while the terminal is ours.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// What the backend writes into.
#[derive(Debug, Clone, Default)]
struct Sheet(Arc<Mutex<Vec<u8>>>);

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal, while it is ours.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Sheet>>,
    sheet: Sheet,
    writer: Option<mpsc::SyncSender<Vec<u8>>>,
    written: Arc<Written>,
}

/// An empty screen of this size. ratatui's own way to clear one asks the terminal where its cursor is, and waits two
/// seconds for those that don't say.
fn blank(sheet: &Sheet, (width, height): (u16, u16)) -> io::Result<Terminal<CrosstermBackend<Sheet>>> {
    let mut clear = String::new();
    Clear(ClearType::All).write_ansi(&mut clear).map_err(io::Error::other)?;
    sheet.0.lock().extend_from_slice(clear.as_bytes());
    let options = TerminalOptions { viewport: Viewport::Fixed(Rect::new(0, 0, width, height)) };
    Terminal::with_options(CrosstermBackend::new(sheet.clone()), options)
}

/// What the writing thread tells.
#[derive(Debug, Default)]
struct Written {
    /// Pieces that are not written yet.
    pending: AtomicUsize,
    /// Nobody reads what is written.
    is_gone: AtomicBool,
    /// What is not written yet is of no use any more.
    is_over: AtomicBool,
    idle: Notify,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// What the terminal says.
    pub(super) fn take(size: (u16, u16), shutdown: &Shutdown) -> io::Result<Self> {
        restore_on_panic();
        // A second signal ends the program at once.
        shutdown.before_exit(restore);
        enable_raw_mode()?;
        IS_TAKEN.store(true, Ordering::SeqCst);
        let mut begin = String::new();
        for written in [
            EnterAlternateScreen.write_ansi(&mut begin),
            EnableMouseCapture.write_ansi(&mut begin),
            EnableBracketedPaste.write_ansi(&mut begin),
            cursor::Hide.write_ansi(&mut begin),
        ] {
            written.map_err(io::Error::other)?;
        }
        let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(4);
        let written = Arc::new(Written::default());
        let told = Arc::clone(&written);
        let mut out = stdout()?;
        shutdown.unjoined_thread("dash-screen", move || write_out(&receiver, &told, &mut out))?;
        let sheet = Sheet::default();
        let terminal = blank(&sheet, size)?;
        let screen = Self { terminal, sheet, writer: Some(sender), written };
        screen.send(begin.into_bytes());
        Ok(screen)
    }

    pub(super) fn resize(&mut self, size: (u16, u16)) -> io::Result<()> {
        self.terminal = blank(&self.sheet, size)?;
        Ok(())
    }

    /// Whether everything that was drawn is on the terminal.
    pub(super) fn is_idle(&self) -> bool {
        self.written.pending.load(Ordering::SeqCst) == 0
    }

    /// Whether the terminal is there no more.
    pub(super) fn is_gone(&self) -> bool {
        self.written.is_gone.load(Ordering::SeqCst)
    }

    /// Waits until a piece was written. Cancel safe.
    pub(super) async fn wrote(&self) {
        self.written.idle.notified().await;
    }

    /// Draws a frame and hands it to the thread that writes it. In one piece, so that no terminal shows half of it.
    ///
    /// # Errors
    /// What ratatui says.
    pub(super) fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(render)?;
        let drawn = std::mem::take(&mut *self.sheet.0.lock());
        if !drawn.is_empty() {
            let mut frame = String::new();
            BeginSynchronizedUpdate.write_ansi(&mut frame).map_err(io::Error::other)?;
            let mut frame = frame.into_bytes();
            frame.extend_from_slice(&drawn);
            let mut end = String::new();
            EndSynchronizedUpdate.write_ansi(&mut end).map_err(io::Error::other)?;
            frame.extend_from_slice(end.as_bytes());
            self.send(frame);
        }
        Ok(())
    }

    /// Writes something that is no frame, such as a bell.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let Some(writer) = &self.writer else { return };
        self.written.pending.fetch_add(1, Ordering::SeqCst);
        if writer.try_send(bytes).is_err() {
            // The terminal takes nothing; a frame that is lost is drawn again in full.
            self.written.pending.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Gives the terminal back.
    pub(super) fn leave(mut self) {
        self.written.is_over.store(true, Ordering::SeqCst);
        self.writer = None;
        let deadline = std::time::Instant::now() + FAREWELL;
        while !self.is_idle() && !self.is_gone() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Standard output without its lock, which a thread that hangs in a write would keep.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

fn write_out(pieces: &mpsc::Receiver<Vec<u8>>, told: &Written, out: &mut File) {
    while let Ok(piece) = pieces.recv() {
        for part in piece.chunks(CHUNK) {
            if told.is_over.load(Ordering::SeqCst) {
                break;
            }
            if out.write_all(part).is_err() {
                told.is_gone.store(true, Ordering::SeqCst);
                break;
            }
        }
        told.pending.fetch_sub(1, Ordering::SeqCst);
        told.idle.notify_one();
    }
}

/// Gives the terminal back, if it is ours. May be called from anywhere, any number of times.
fn restore() {
    if !IS_TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // Should a sequence have been cut in the middle: this ends every one of them (ECMA-48: CAN, then ST).
    let mut end = "\x18\x1b\\".to_owned();
    // Writing into a string does not fail, and there is nobody to tell.
    EndSynchronizedUpdate.write_ansi(&mut end).unwrap_or_default();
    DisableBracketedPaste.write_ansi(&mut end).unwrap_or_default();
    DisableMouseCapture.write_ansi(&mut end).unwrap_or_default();
    LeaveAlternateScreen.write_ansi(&mut end).unwrap_or_default();
    cursor::Show.write_ansi(&mut end).unwrap_or_default();
    drop(stdout().and_then(|mut out| out.write_all(end.as_bytes())));
    drop(disable_raw_mode());
}

/// A panic's message belongs on the person's own screen.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}
