//! What the dashboard does in the world: files, the clipboard, bells, the connection. Called from the loop; nothing here
//! takes long.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::Engine as _;
use tokio::sync::mpsc;

use super::{
    alarm::Alarm,
    app::{App, Effect},
    feed::Order,
    prefs::Prefs,
    terminal::Screen,
};

/// No more than five bells a second.
const BELLS: Duration = Duration::from_millis(200);

/// Characters that terminals take into the clipboard; many refuse more.
const CLIPBOARD: usize = 74_994;

/// Does what is to be done.
#[derive(Debug)]
pub(super) struct Performer {
    orders: mpsc::Sender<Order>,
    data_dir: PathBuf,
    alarm: Alarm,
    rang_at: Option<Instant>,
}

impl Performer {
    pub(super) fn new(orders: mpsc::Sender<Order>, data_dir: PathBuf, alarm: Alarm) -> Self {
        Self { orders, data_dir, alarm, rang_at: None }
    }

    /// Does it, and says what the person should know.
    pub(super) fn perform(&mut self, effect: Effect, app: &App, screen: &Screen) -> Option<String> {
        match effect {
            Effect::Quit => None,
            Effect::Connect => self.order(Order::Connect),
            Effect::Disconnect => self.order(Order::Disconnect),
            Effect::RetryNow => self.order(Order::RetryNow),
            Effect::Read(reading) => self.order(Order::Read(reading)),
            Effect::Rebind(patterns) => self.order(Order::Rebind(patterns)),
            Effect::Copy(text) => Some(copy(&text, screen)),
            Effect::Save { name, bytes } => Some(save(Path::new(&name), &bytes)),
            Effect::Bell => {
                self.ring(screen);
                None
            }
            Effect::Notify { title, text } => {
                if self.alarm.rings {
                    self.ring(screen);
                }
                let trouble = self.alarm.tell(&title, &text);
                Some(trouble.unwrap_or_else(|| format!("{title}: {text}")))
            }
            Effect::Keep => Prefs::of(app).write(&self.data_dir).err().map(|error| format!("{error:#}")),
        }
    }

    fn ring(&mut self, screen: &Screen) {
        if self.rang_at.is_none_or(|at| at.elapsed() >= BELLS) {
            self.rang_at = Some(Instant::now());
            screen.send(b"\x07".to_vec());
        }
    }

    fn order(&self, order: Order) -> Option<String> {
        let sent = self.orders.try_send(order);
        sent.err().map(|_| "the connection is busy; try again".to_owned())
    }
}

/// Puts a text into the clipboard of whoever looks at the terminal (OSC 52), also through ssh.
fn copy(text: &str, screen: &Screen) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    if encoded.len() > CLIPBOARD {
        return format!(
            "{} bytes are too many for a terminal's clipboard; s saves them to a file",
            text.len()
        );
    }
    screen.send(format!("\x1b]52;c;{encoded}\x07").into_bytes());
    "Copied".to_owned()
}

/// Writes a file that was not there before.
pub(super) fn save(path: &Path, bytes: &[u8]) -> String {
    let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
        file.write_all(bytes).inspect_err(|_| {
            // Half a file is worse than none; that it can't be removed either says nothing new.
            drop(fs::remove_file(path));
        })
    });
    match written {
        Ok(()) => format!("saved {}", path.display()),
        Err(error) => format!("cannot save {}: {error}", path.display()),
    }
}
