//! The reference, generated from the types.

use std::collections::HashSet;
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
    let mut shown = HashSet::new();
    for (name, property) in top {
        if table(&schema, property).is_none() {
            continue;
        }
        section(&schema, (name, property), &defaults, &mut page);
        let inner = properties(&schema, property);
        nested(&schema, name, inner, &mut shown, &mut page);
    }
    page
}

/// A table and its keys.
fn section(schema: &Value, (name, property): (&str, &Value), defaults: &Value, page: &mut String) {
    let array = property.get("type").and_then(Value::as_str) == Some("array");
    let heading = if array {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    };
    let text = described(property)
        .or_else(|| described(table(schema, property)?))
        .unwrap_or_default();
    let _ = write!(page, "\n## `{heading}`\n\n{text}\n\n");
    let properties = properties(schema, property);
    let defaults = defaults.get(name).unwrap_or(&Value::Null);
    rows(schema, properties, defaults, page);
}

/// The tables that are values of keys, each where it is met first.
fn nested<'a>(
    schema: &'a Value,
    of: &str,
    properties: impl Iterator<Item = (&'a String, &'a Value)>,
    shown: &mut HashSet<String>,
    page: &mut String,
) {
    for (name, property) in properties {
        let Some((type_name, inner)) = reference_of(schema, property) else {
            continue;
        };
        if inner.get("properties").is_none() || !shown.insert(type_name.to_owned()) {
            continue;
        }
        let text = described(inner).unwrap_or_default();
        let _ = write!(page, "\n### `{of}.{name}`\n\n{text}\n\n");
        rows(
            schema,
            self::properties(schema, property),
            &Value::Null,
            page,
        );
    }
}

fn properties<'a>(
    schema: &'a Value,
    property: &'a Value,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let inner = table(schema, property).and_then(|inner| inner.get("properties"));
    inner.and_then(Value::as_object).into_iter().flatten()
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

/// What a property refers to: itself, its items, or the one of several that is a reference.
fn referenced<'a>(schema: &'a Value, property: &'a Value) -> Option<&'a Value> {
    reference_of(schema, property).map(|(_, inner)| inner)
}

fn reference_of<'a>(schema: &'a Value, property: &'a Value) -> Option<(&'a str, &'a Value)> {
    let reference = property.get("$ref").and_then(Value::as_str);
    if let Some(name) = reference.and_then(|name| name.strip_prefix("#/$defs/")) {
        return Some((name, schema.get("$defs")?.get(name)?));
    }
    let several = property.get("anyOf").and_then(Value::as_array);
    let items = property.get("items").into_iter();
    let mut within = several.into_iter().flatten().chain(items);
    within.find_map(|inner| reference_of(schema, inner))
}

/// The table that a property is, or is made of.
fn table<'a>(schema: &'a Value, property: &'a Value) -> Option<&'a Value> {
    referenced(schema, property).filter(|inner| inner.get("properties").is_some())
}
