//! `image ls`, `inspect`, `history`, `df`: what the store holds.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::super::Context;
use super::{IMAGES, size};
use crate::cli::{Format, ImageList};
use crate::client::Call;
use crate::error::CtlError;
use crate::output;
use crate::resource::query;
use crate::tree::{list, number, plain, text};

pub(super) async fn show(context: &Context, options: &ImageList) -> Result<(), CtlError> {
    let answer = context.client.json(Call::get(IMAGES)).await?;
    let items = list(&answer, "/items");
    match options.output {
        Some(Format::Json) => return output::line(&output::json_text(&answer)),
        Some(Format::Yaml) => return output::raw(output::yaml_text(&answer).as_bytes()),
        _ => {}
    }
    if options.quiet {
        return items
            .iter()
            .try_for_each(|image| output::line(text(image, "/id")));
    }
    let wide = options.output == Some(Format::Wide);
    let titles = ["NAME", "ID", "SIZE", "UNIQUE", "IMPORTED", "IN USE", "MANIFEST"];
    let shown = if wide { titles.len() } else { titles.len() - 1 };
    let mut rows = vec![
        titles[..shown]
            .iter()
            .map(|title| (*title).to_owned())
            .collect::<Vec<_>>(),
    ];
    for image in items {
        let names: Vec<String> = list(image, "/names").iter().map(plain).collect();
        let names = if names.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            names
        };
        for name in names {
            if options.output == Some(Format::Name) {
                output::line(&name)?;
            }
            rows.push(row(image, name, shown));
        }
    }
    if options.output == Some(Format::Name) {
        Ok(())
    } else {
        output::raw(output::table(&rows).as_bytes())
    }
}

fn row(image: &Value, name: String, shown: usize) -> Vec<String> {
    let id = text(image, "/id").trim_start_matches("sha256:");
    let used = image["inUse"] == true;
    let mut row = vec![
        name,
        id.chars().take(12).collect(),
        size(number(image, "/size")),
        size(number(image, "/uniqueSize")),
        age(number(image, "/imported")),
        if used { "yes" } else { "no" }.to_owned(),
        text(image, "/manifest").to_owned(),
    ];
    row.truncate(shown);
    row
}

fn age(imported: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    format!("{} ago", berth_api::table::human((now - imported).max(0)))
}

async fn one(context: &Context, name: &str) -> Result<Value, CtlError> {
    let path = format!("{IMAGES}{}", query(&[("name", name.to_owned())]));
    context.client.json(Call::get(&path)).await
}

/// Everything about images, as JSON or YAML.
pub(super) async fn inspect(
    context: &Context,
    names: &[String],
    format: Option<Format>,
) -> Result<(), CtlError> {
    let mut found = Vec::new();
    for name in names {
        found.push(one(context, name).await?);
    }
    let whole = match found.len() {
        1 => found.swap_remove(0),
        _ => Value::from(found),
    };
    match format {
        Some(Format::Yaml) => output::raw(output::yaml_text(&whole).as_bytes()),
        _ => output::line(&output::json_text(&whole)),
    }
}

/// The steps an image was made by, the last first, as Docker shows them.
pub(super) async fn history(context: &Context, name: &str, whole: bool) -> Result<(), CtlError> {
    let image = one(context, name).await?;
    let mut layers = list(&image, "/layers").iter();
    let mut rows: Vec<Vec<String>> = list(&image, "/config/history")
        .iter()
        .map(|step| {
            let empty = step["empty_layer"] == true;
            let layer = if empty { None } else { layers.next() };
            let digest = layer.map_or("<none>", |layer| text(layer, "/digest"));
            let by = text(step, "/created_by");
            vec![
                shortened(digest.trim_start_matches("sha256:"), if whole { 64 } else { 12 }),
                created(text(step, "/created")),
                shortened(&one_line(by), if whole { usize::MAX } else { 60 }),
                size(layer.map_or(0, |layer| number(layer, "/size"))),
                one_line(text(step, "/comment")),
            ]
        })
        .collect();
    // Layers that the history does not tell of: it may be missing altogether.
    for layer in layers {
        let digest = text(layer, "/digest").trim_start_matches("sha256:");
        rows.push(vec![
            shortened(digest, if whole { 64 } else { 12 }),
            "<unknown>".to_owned(),
            String::new(),
            size(number(layer, "/size")),
            String::new(),
        ]);
    }
    rows.push(
        ["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
            .map(str::to_owned)
            .to_vec(),
    );
    rows.reverse();
    output::raw(output::table(&rows).as_bytes())
}

/// What the images take of the disk.
pub(super) async fn usage(context: &Context, format: Option<Format>) -> Result<(), CtlError> {
    let path = format!("{IMAGES}/usage");
    let answer = context.client.json(Call::get(&path)).await?;
    match format {
        Some(Format::Json) => return output::line(&output::json_text(&answer)),
        Some(Format::Yaml) => return output::raw(output::yaml_text(&answer).as_bytes()),
        _ => {}
    }
    let row = |title: &str, part: &str| {
        vec![
            title.to_owned(),
            number(&answer, &format!("/{part}/count")).to_string(),
            size(number(&answer, &format!("/{part}/bytes"))),
        ]
    };
    let rows = [
        ["TYPE", "COUNT", "SIZE"].map(str::to_owned).to_vec(),
        vec![
            "Images".to_owned(),
            number(&answer, "/images").to_string(),
            String::new(),
        ],
        row("Blobs (as transferred)", "blobs"),
        row("Layers (unpacked)", "layers"),
        row("Partial downloads", "partial"),
        vec![
            "Reclaimable by prune --all".to_owned(),
            String::new(),
            size(number(&answer, "/reclaimable")),
        ],
    ];
    output::raw(output::table(&rows).as_bytes())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let start: String = text.chars().take(most.saturating_sub(1)).collect();
    if most == 12 {
        text.chars().take(12).collect()
    } else {
        format!("{start}…")
    }
}

fn created(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let seconds = jiff::Timestamp::now().duration_since(time).as_secs();
            format!("{} ago", berth_api::table::human(seconds.max(0)))
        }
        Err(_) => "<unknown>".to_owned(),
    }
}
