//! `/v1/models`: what is loaded, under its own name and under the one that clients ask for by habit.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{ApiError, App};
use crate::asr::protocols::openai::{Model, ModelList};
use crate::asr::{DecodeOptions, SttError};

/// The name that most clients ask for.
const ALIAS: &str = "whisper-1";

/// Every model that can be asked for.
pub(super) fn list(State(app): State<Arc<App>>, created: i64) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list".to_owned(), data: all(&app, created)? }))
}

/// One of them.
pub(super) fn one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    created: i64,
) -> Result<Json<Model>, ApiError> {
    let models = all(&app, created)?;
    let names = models.iter().map(|model| model.id.clone()).collect::<Vec<_>>().join(", ");
    models.into_iter().find(|model| model.id == id).map(Json).ok_or_else(|| {
        let message = format!("there is no model '{id}' here; there are {names}");
        ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model")
    })
}

fn all(app: &App, created: i64) -> Result<Vec<Model>, SttError> {
    let loaded = app.engine.check(&DecodeOptions::default())?;
    let model = |id: &str| Model {
        id: id.to_owned(),
        object: "model".to_owned(),
        created,
        owned_by: "godctl".to_owned(),
    };
    let mut models = vec![model(&loaded.name)];
    if loaded.name != ALIAS {
        models.push(model(ALIAS));
    }
    Ok(models)
}
