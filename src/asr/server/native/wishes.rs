//! What the client of a session asked for, over what the server was started with.

use super::{super::listen::App, board::View};
use crate::asr::{
    ModelInfo,
    engine::StreamOptions,
    protocols::{
        native::{Config, request::Request},
        parameter::BadParameter,
    },
};

/// A session's id, and its parameters.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    pub(super) id: String,
    pub(super) request: Request,
}

impl Wishes {
    /// The same with the options of a `config` message.
    pub(super) fn amended(
        &self,
        pairs: Vec<(String, String)>,
        model: &ModelInfo,
    ) -> Result<Self, BadParameter> {
        let request = self.request.clone().amended(pairs)?;
        request.check_model(model)?;
        Ok(Self { id: self.id.clone(), request })
    }

    /// For the engine.
    pub(super) fn options(&self, app: &App) -> StreamOptions {
        StreamOptions {
            decode: self.request.decode(&app.options.decode),
            tuning: self.request.tuning(app.options.tuning),
        }
    }

    /// For the transcript.
    pub(super) fn view(&self, app: &App) -> View {
        View {
            mode: self.request.mode,
            layout: self.request.layout(),
            language: self.request.decode(&app.options.decode).language,
            retention: app.options.retention_lines,
        }
    }

    /// For the client.
    pub(super) fn config(&self, app: &App, live: &ModelInfo) -> Config {
        let StreamOptions { decode, tuning } = self.options(app);
        self.request.config(self.id.clone(), live, &decode, tuning, app.options.retention_lines)
    }
}
