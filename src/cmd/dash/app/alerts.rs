//! Alerts are looked at as time goes by. Pure.

use super::{super::state::alerts::Notice, App, Effect};

impl App {
    /// Looks how the rules stand; who is to be told of what has changed.
    pub(super) fn watch(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for notice in self.tallies.alerts.check(self.now) {
            self.is_dirty = true;
            match notice {
                Notice::Fires { title, text } => {
                    self.tell(format!("{title}: {text} (A shows all alerts)"));
                    effects.push(Effect::Notify { title, text });
                }
                Notice::Clears(rule) => self.tell(format!("over: {rule}")),
            }
        }
        effects
    }
}
