//! The server over real sockets, with a model that needs no weights: the websocket `/asr` as old clients know it.

mod outside;
mod session;
mod stream;

use godctl::asr::{
    client::{self, ClientError, Receiver, Sender},
    protocols::native::{Config, ServerMessage, StateUpdate, Tagged},
};

pub(crate) use crate::serving::{PATIENCE, Server};

impl Server {
    pub(crate) async fn connect(&self, query: &str) -> Session {
        let (sender, receiver) = self.try_connect(query).await.unwrap();
        let mut session = Session { sender, receiver, config: None };
        match session.next().await {
            ServerMessage::Tagged(Tagged::Config(config)) => session.config = Some(*config),
            other => panic!("the first message is the config, not {other:?}"),
        }
        session
    }

    pub(crate) async fn try_connect(&self, query: &str) -> Result<(Sender, Receiver), ClientError> {
        client::connect(&format!("ws://{}/asr{query}", self.address)).await
    }
}

pub(crate) struct Session {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) config: Option<Config>,
}

impl Session {
    pub(crate) async fn next(&mut self) -> ServerMessage {
        self.try_next().await.unwrap().expect("the session ended early")
    }

    pub(crate) async fn try_next(&mut self) -> Result<Option<ServerMessage>, ClientError> {
        tokio::time::timeout(PATIENCE, self.receiver.next()).await.expect("no message came")
    }

    pub(crate) async fn state(&mut self) -> StateUpdate<'static> {
        loop {
            if let ServerMessage::State(state) = self.next().await {
                return *state;
            }
        }
    }

    pub(crate) async fn tagged(&mut self) -> Tagged {
        loop {
            if let ServerMessage::Tagged(tagged) = self.next().await {
                return tagged;
            }
        }
    }

    /// The error message, and the close code after it.
    pub(crate) async fn refusal(&mut self) -> (String, String, u16) {
        let Tagged::Error { error, code, .. } = self.tagged().await else { panic!("no error") };
        match self.try_next().await {
            Err(ClientError::Closed { code: close, .. }) => (error, code, close),
            other => panic!("not closed: {other:?}"),
        }
    }

    /// Everything up to the end: the last state, after which comes `ready_to_stop`.
    pub(crate) async fn finish(mut self) -> StateUpdate<'static> {
        self.sender.end().await.unwrap();
        let last = self.until_ready_to_stop().await;
        self.sender.close().await.unwrap();
        last
    }

    pub(crate) async fn until_ready_to_stop(&mut self) -> StateUpdate<'static> {
        let mut last = None;
        loop {
            match self.next().await {
                ServerMessage::State(state) => last = Some(*state),
                ServerMessage::Tagged(Tagged::ReadyToStop) => return last.expect("no state before the end"),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

pub(crate) fn texts(state: &StateUpdate<'_>) -> Vec<String> {
    state.lines.iter().map(|line| line.text.clone()).collect()
}

pub(crate) async fn say(sender: &mut Sender, samples: &[f32], chunk: usize) {
    for chunk in samples.chunks(chunk) {
        sender.audio(chunk).await.unwrap();
    }
}
