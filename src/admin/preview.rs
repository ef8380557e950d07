//! Lets the publisher compile a text without publishing it.

use std::sync::Arc;

use http::StatusCode;

use super::blocking::on_thread;
use super::saved_edit::EditFault;
use super::{Context, ControlCommand, Preview};
use crate::config;

/// Compiles a text as if it were that of the file `name`. Also returns its warnings, rendered.
///
/// # Errors
/// The text is not valid, or the proxy is stopping.
pub(super) async fn preview(
    text: Arc<str>,
    name: String,
    context: &Context,
) -> Result<(Preview, Vec<String>), EditFault> {
    let rendered = |found: &[config::Diagnostic]| -> Vec<String> {
        found.iter().map(|d| d.rendered(false)).collect()
    };
    let parsed = on_thread("preview", move || config::parse_with_files(&text, &name)).await;
    let parsed = parsed.map_err(EditFault::internal)?;
    let (spec, warnings) = parsed.map_err(|errors| EditFault {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        message: rendered(&errors).join("\n"),
    })?;
    let command = |answer| ControlCommand::Preview {
        spec: Arc::new(spec),
        answer,
    };
    let preview = context.ask(command).await;
    let preview = preview.ok_or_else(EditFault::stopping)?;
    Ok((preview, rendered(&warnings)))
}
