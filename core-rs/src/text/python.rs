//! Python's view of JSON: `json.loads`, `json.dumps`, `str` and `repr` over template values, since chat templates were
//! written against them.
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

/// JSON text to a template value: key order and the kind of each number are kept.
pub fn loads(text: &str) -> serde_json::Result<Value> {
    Ok(value_of(&serde_json::from_str(&without_lone_surrogates(text))?))
}

pub fn dict<K: Into<Value>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => number_of(number.as_str()),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(fields) => dict(fields.iter().map(|(key, value)| (key.as_str(), value_of(value)))),
    }
}

/// `2` is an int and `2.0` a float, and an int has any number of digits.
fn number_of(digits: &str) -> Value {
    if digits.contains(['.', 'e', 'E']) {
        return Value::from(digits.parse::<f64>().unwrap_or(f64::NAN));
    }
    match digits.parse::<i128>() {
        Ok(small) => Value::from(small),
        Err(_) => Value::from_object(LongInteger(digits.to_string())),
    }
}

/// An integer beyond 128 bits: templates can only print it.
#[derive(Debug)]
struct LongInteger(String);

impl Object for LongInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Python keeps a lone `\ud800`, Rust's strings cannot: it becomes U+FFFD, as it would when encoded with `replace`.
fn without_lone_surrogates(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        let (before, escape) = rest.split_at(start);
        out.push_str(before);
        let taken = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => &escape[..12],
            (Some(_), _) => {
                out.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            (None, _) => &escape[..1 + escape[1..].chars().next().map_or(0, char::len_utf8)],
        };
        out.push_str(taken);
        rest = &escape[taken.len()..];
    }
    Cow::Owned(out + rest)
}

/// The code of a `\uD8xx` escape at the start of the text.
fn surrogate(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok().filter(|code| (0xD800..=0xDFFF).contains(code))
}

/// Arguments of `json.dumps`.
pub struct JsonLayout {
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

pub fn dumps(value: &Value, layout: &JsonLayout) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, layout, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, layout: &JsonLayout, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value, JSON_NON_FINITE)),
        ValueKind::String => write_json_string(out, value.as_str().unwrap_or_default(), layout.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(out, ('[', ']'), layout, depth, &items, |out, item| write_json(out, item, layout, depth + 1))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if layout.sort_keys {
                keys.sort();
            }
            write_items(out, ('{', '}'), layout, depth, &keys, |out, key| {
                write_json_string(out, &text(key), layout.ensure_ascii);
                out.push_str(&layout.key_separator);
                write_json(out, &value.get_item(key)?, layout, depth + 1)
            })?;
        }
        _ if value.downcast_object_ref::<LongInteger>().is_some() => out.push_str(&value.to_string()),
        kind => {
            let problem = format!("Object of type {kind} is not JSON serializable");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    }
    Ok(())
}

fn write_items(
    out: &mut String,
    (open, close): (char, char),
    layout: &JsonLayout,
    depth: usize,
    items: &[Value],
    write: impl Fn(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&layout.item_separator);
        }
        new_line(out, layout, depth + 1);
        write(out, item)?;
    }
    if !items.is_empty() {
        new_line(out, layout, depth);
    }
    out.push(close);
    Ok(())
}

fn new_line(out: &mut String, layout: &JsonLayout, depth: usize) {
    if let Some(indent) = layout.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write_json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

const JSON_NON_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
const PYTHON_NON_FINITE: [&str; 3] = ["nan", "inf", "-inf"];

fn number(value: &Value, [nan, inf, minus_inf]: [&str; 3]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => nan.into(),
        Ok(x) if x.is_infinite() => if x > 0.0 { inf } else { minus_inf }.into(),
        Ok(x) => float_repr(x),
        Err(_) => value.to_string(),
    }
}

/// Python's `repr(float)`: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn float_repr(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=15 => format!("{x:?}"),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// Python's `str(value)`; undefined prints nothing, as in Jinja.
pub fn text(value: &Value) -> Cow<'_, str> {
    match value.kind() {
        ValueKind::Undefined => Cow::Borrowed(""),
        ValueKind::String => Cow::Borrowed(value.as_str().unwrap_or_default()),
        _ => Cow::Owned(repr(value)),
    }
}

fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value, PYTHON_NON_FINITE),
        ValueKind::String => string_repr(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect::<Vec<_>>();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let field = |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            let fields = value.try_iter().into_iter().flatten().map(field).collect::<Vec<_>>();
            format!("{{{}}}", fields.join(", "))
        }
        _ => value.to_string(),
    }
}

fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa0).contains(&(c as u32)) => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: JsonLayout = JsonLayout {
        indent: None,
        item_separator: String::new(),
        key_separator: String::new(),
        ensure_ascii: false,
        sort_keys: false,
    };

    fn dumped(json: &str) -> String {
        let layout = JsonLayout { item_separator: ", ".into(), key_separator: ": ".into(), ..PLAIN };
        dumps(&loads(json).unwrap(), &layout).unwrap()
    }

    /// Right-hand sides are what Python 3.12's `json.dumps(json.loads(x), ensure_ascii=False)` prints.
    #[test]
    fn json_is_pythons() {
        for (json, python) in [
            ("{\"b\":1,\"a\":[2.0,2]}", "{\"b\": 1, \"a\": [2.0, 2]}"),
            (
                "[1e-7, 1E5, 1.5e300, -0.0, 1e16, 0.0001, 0.00001]",
                "[1e-07, 100000.0, 1.5e+300, -0.0, 1e+16, 0.0001, 1e-05]",
            ),
            (
                "[9999999999999998.0, 123456.789, 1e400, -1e400]",
                "[9999999999999998.0, 123456.789, Infinity, -Infinity]",
            ),
            ("[10000000000000000000000000000000000000000000000]", "[10000000000000000000000000000000000000000000000]"),
            ("[18446744073709551616, -9223372036854775809, -0]", "[18446744073709551616, -9223372036854775809, 0]"),
            (
                "\"<a href='x'>&\\u00e9\\u2028\\u007f\\u0001\\/\\b\\f\"",
                "\"<a href='x'>&é\u{2028}\u{7f}\\u0001/\\b\\f\"",
            ),
            ("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"),
            ("[true,false,null,[],{}]", "[true, false, null, [], {}]"),
            // Python would keep the lone surrogates; the pair and the escaped backslash are left alone.
            ("\"\\ud83d\\ude00 \\ud800 \\\\ud800\"", "\"😀 \u{fffd} \\\\ud800\""),
        ] {
            assert_eq!(dumped(json), python, "{json}");
        }
    }

    #[test]
    fn json_layouts() {
        let value = loads("{\"b\":[1,{}],\"a\":\"é😀\"}").unwrap();
        let indented = JsonLayout {
            indent: Some(2),
            item_separator: ",".into(),
            key_separator: ": ".into(),
            ensure_ascii: true,
            sort_keys: true,
        };
        let expected = "{\n  \"a\": \"\\u00e9\\ud83d\\ude00\",\n  \"b\": [\n    1,\n    {}\n  ]\n}";
        assert_eq!(dumps(&value, &indented).unwrap(), expected);
    }

    #[test]
    fn text_is_pythons_str() {
        for (json, python) in [
            ("null", "None"),
            ("true", "True"),
            ("1e22", "1e+22"),
            ("\"it's\"", "it's"),
            ("[\"it's\", \"\\\"\", 2.0, {\"k\": null}]", "[\"it's\", '\"', 2.0, {'k': None}]"),
        ] {
            assert_eq!(text(&loads(json).unwrap()), python);
        }
    }
}
