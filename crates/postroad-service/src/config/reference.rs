//! The reference, generated from the types.

use std::fmt::Write as _;

use schemars::schema_for;
use serde_json::{Map, Value};

use super::Config;

/// The JSON Schema of the configuration.
#[must_use]
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema_for!(Config)).unwrap_or_default();
    text.push('\n');
    text
}

/// The reference page, in Markdown.
#[must_use]
pub fn reference() -> String {
    let schema = serde_json::to_value(schema_for!(Config)).unwrap_or_default();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut page = String::from(
        "# Configuration reference\n\nGenerated from the types by `postroad config-reference`; do not edit.\n\n\
         One TOML file, `/etc/postroad/postroad.toml` or what `--config` or `POSTROAD_CONFIG` names. Unknown keys are\n\
         errors. Sizes are \"50MiB\" or a number of octets, times \"30s\", \"2m\", \"4h\", \"5d\". Relative paths are\n\
         relative to the file.\n\n## Top level\n\n",
    );
    let none = Map::new();
    let top = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let is_table = |property: &Value| table(&schema, property).is_some();
    rows(
        &schema,
        top.iter().filter(|(_, p)| !is_table(p)),
        &defaults,
        &mut page,
    );
    for (name, property) in top {
        let Some(inner) = table(&schema, property) else {
            continue;
        };
        let array = property.get("type").and_then(Value::as_str) == Some("array");
        let heading = if array {
            format!("[[{name}]]")
        } else {
            format!("[{name}]")
        };
        let _ = write!(
            page,
            "\n## `{heading}`\n\n{}\n\n",
            described(property)
                .or_else(|| described(inner))
                .unwrap_or_default()
        );
        let properties = inner
            .get("properties")
            .and_then(Value::as_object)
            .unwrap_or(&none);
        rows(
            &schema,
            properties.iter(),
            defaults.get(name).unwrap_or(&Value::Null),
            &mut page,
        );
    }
    page
}

fn rows<'a>(
    schema: &Value,
    properties: impl Iterator<Item = (&'a String, &'a Value)>,
    defaults: &Value,
    page: &mut String,
) {
    page.push_str("| key | default | what it is |\n|---|---|---|\n");
    for (name, property) in properties {
        let default = match defaults.get(name) {
            None | Some(Value::Null) => "–".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let text = described(property)
            .or_else(|| referenced(schema, property).and_then(described))
            .unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{name}` | {default} | {} |",
            text.replace('\n', " ").replace('|', "\\|")
        );
    }
}

fn described(property: &Value) -> Option<String> {
    property
        .get("description")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// What a property refers to: itself, its items, or the one of several that is not null.
fn referenced<'a>(schema: &'a Value, property: &'a Value) -> Option<&'a Value> {
    let of = |value: &'a Value| value.get("$ref").and_then(Value::as_str);
    let several = property
        .get("anyOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let name = of(property)
        .or_else(|| property.get("items").and_then(of))
        .or_else(|| several.filter_map(of).next())?;
    schema.get("$defs")?.get(name.strip_prefix("#/$defs/")?)
}

/// The table that a property is, or is made of.
fn table<'a>(schema: &'a Value, property: &'a Value) -> Option<&'a Value> {
    referenced(schema, property).filter(|inner| inner.get("properties").is_some())
}
