//! `get`: objects as tables, JSON, YAML or names; once, or as they change.

use serde_json::Value;

use super::Context;
use super::rows::Printer;
use crate::cli::{Format, Get};
use crate::client::{Call, JSON, Lines, TABLE};
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, query, targets, type_title};
use crate::tree::{list, text};

/// Shows what the command line asks for.
pub(super) async fn run(context: &Context, options: &Get) -> Result<(), CtlError> {
    let wanted = targets(&options.selection, &context.namespace)?;
    if options.watch {
        return watch(context, options, &wanted).await;
    }
    match options.output {
        None | Some(Format::Wide) => tables(context, options, &wanted).await,
        Some(format) => objects(context, options, &wanted, format).await,
    }
}

fn parameters(options: &Get) -> Vec<(&'static str, String)> {
    let mut parameters = Vec::new();
    if let Some(selector) = &options.selection.selector {
        parameters.push(("labelSelector", selector.clone()));
    }
    if let Some(selector) = &options.field_selector {
        parameters.push(("fieldSelector", selector.clone()));
    }
    parameters
}

/// Fetches each target; what is not there is an error, told after the others were shown.
async fn fetch(
    context: &Context,
    options: &Get,
    target: &Target,
    accept: &str,
    errors: &mut Vec<CtlError>,
) -> Result<Option<Value>, CtlError> {
    let mut path = target.path();
    if target.name.is_none() {
        path = format!("{path}{}", query(&parameters(options)));
    }
    match context.client.json(Call::get(&path).accept(accept)).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_not_found() && target.name.is_some() => {
            if !options.ignore_not_found {
                errors.push(error);
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn tables(context: &Context, options: &Get, wanted: &[Target]) -> Result<(), CtlError> {
    let wide = options.output == Some(Format::Wide);
    let several = wanted.iter().any(|target| target.kind != wanted[0].kind);
    let mut errors = Vec::new();
    let mut printer: Option<(&Target, Printer<'_>)> = None;
    let mut shown = false;
    for target in wanted {
        let Some(table) = fetch(context, options, target, TABLE, &mut errors).await? else {
            continue;
        };
        // Objects of one kind share a table.
        if printer.as_ref().is_none_or(|(of, _)| of.kind != target.kind) {
            let prefix = if several {
                format!("{}/", type_title(target.kind))
            } else {
                String::new()
            };
            printer = Some((target, Printer::new(options, prefix)));
            if shown && !list(&table, "/rows").is_empty() {
                output::line("")?;
            }
        }
        if let Some((_, printer)) = &mut printer {
            let text = printer.rows(&table, wide);
            shown |= !text.is_empty();
            output::raw(text.as_bytes())?;
        }
    }
    if !shown && errors.is_empty() && !options.ignore_not_found {
        let namespaced = wanted.iter().any(|target| target.kind.namespaced);
        if namespaced && !options.selection.all_namespaces {
            eprintln!("No resources found in {} namespace.", context.namespace);
        } else {
            eprintln!("No resources found");
        }
    }
    CtlError::all(errors)
}

async fn objects(
    context: &Context,
    options: &Get,
    wanted: &[Target],
    format: Format,
) -> Result<(), CtlError> {
    let mut errors = Vec::new();
    let mut found: Vec<(&Target, Value)> = Vec::new();
    for target in wanted {
        let Some(answer) = fetch(context, options, target, JSON, &mut errors).await? else {
            continue;
        };
        if target.name.is_some() {
            found.push((target, answer));
            continue;
        }
        // Objects in a list do not say their kind.
        for item in list(&answer, "/items") {
            let mut item = item.clone();
            item["apiVersion"] = Value::from(target.kind.api_version());
            item["kind"] = Value::from(target.kind.kind);
            found.push((target, item));
        }
    }
    let clean = |object: Value| {
        if options.show_managed_fields {
            object
        } else {
            output::without_managed_fields(object)
        }
    };
    if format == Format::Name {
        for (target, object) in &found {
            output::line(&Target::of(target.kind, object).title())?;
        }
        return CtlError::all(errors);
    }
    let single = matches!(wanted, [only] if only.name.is_some());
    let mut items: Vec<Value> = found.into_iter().map(|(_, object)| clean(object)).collect();
    if !(single && items.is_empty()) {
        let whole = if single {
            items.pop().unwrap_or_default()
        } else {
            output::list_of(&items)
        };
        show(&whole, format)?;
    }
    CtlError::all(errors)
}

fn show(object: &Value, format: Format) -> Result<(), CtlError> {
    match format {
        Format::Yaml => output::raw(output::yaml_text(object).as_bytes()),
        _ => output::line(&output::json_text(object)),
    }
}

/// Shows what there is, and then every change, until the connection ends.
async fn watch(context: &Context, options: &Get, wanted: &[Target]) -> Result<(), CtlError> {
    let [target] = wanted else {
        return Err(CtlError::Usage(
            "only one kind, or one object, can be watched".to_owned(),
        ));
    };
    let table = matches!(options.output, None | Some(Format::Wide));
    let accept = if table { TABLE } else { JSON };
    let mut parameters = parameters(options);
    if let Some(name) = &target.name {
        parameters.push(("fieldSelector", format!("metadata.name={name}")));
        // Something that is not there is an error, not an endless wait.
        context.client.json(Call::get(&target.path())).await?;
    }
    let all = Target {
        name: None,
        ..target.clone()
    };
    let path = format!("{}{}", all.path(), query(&parameters));
    let answer = context.client.json(Call::get(&path).accept(accept)).await?;
    let mut view = View {
        target,
        options,
        printer: Printer::new(options, String::new()),
    };
    view.list(&answer)?;
    parameters.push(("watch", "true".to_owned()));
    parameters.push((
        "resourceVersion",
        text(&answer, "/metadata/resourceVersion").to_owned(),
    ));
    let path = format!("{}{}", all.path(), query(&parameters));
    let mut lines = Lines::new(context.client.open(Call::get(&path).accept(accept)).await?);
    while let Some(event) = lines.next().await {
        match text(&event, "/type") {
            "BOOKMARK" => {}
            "ERROR" => {
                return Err(CtlError::Api {
                    code: 410,
                    reason: text(&event, "/object/reason").to_owned(),
                    message: text(&event, "/object/message").to_owned(),
                });
            }
            _ => view.object(&event["object"])?,
        }
    }
    Ok(())
}

struct View<'a> {
    target: &'a Target,
    options: &'a Get,
    printer: Printer<'a>,
}

impl View<'_> {
    fn list(&mut self, answer: &Value) -> Result<(), CtlError> {
        if matches!(self.options.output, None | Some(Format::Wide)) {
            return self.object(answer);
        }
        list(answer, "/items")
            .iter()
            .try_for_each(|item| self.object(item))
    }

    /// One object, or one table of rows.
    fn object(&mut self, object: &Value) -> Result<(), CtlError> {
        match self.options.output {
            None | Some(Format::Wide) => {
                let wide = self.options.output == Some(Format::Wide);
                output::raw(self.printer.rows(object, wide).as_bytes())
            }
            Some(Format::Name) => output::line(&Target::of(self.target.kind, object).title()),
            Some(format) => {
                let mut object = object.clone();
                object["apiVersion"] = Value::from(self.target.kind.api_version());
                object["kind"] = Value::from(self.target.kind.kind);
                if !self.options.show_managed_fields {
                    object = output::without_managed_fields(object);
                }
                if format == Format::Yaml {
                    output::line("---")?;
                }
                show(&object, format)
            }
        }
    }
}
