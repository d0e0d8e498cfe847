//! Values of a JSON object, and errors that name their keys.

use serde_json::{Map, Value};

use crate::error::{ClipVisionError, Result};

/// An object of a configuration file. A key that is missing or null takes its default, as in transformers.
pub(crate) struct Object<'a> {
    values: &'a Map<String, Value>,
    /// The keys that lead here, each with a point behind it.
    path: String,
}

impl<'a> Object<'a> {
    pub(crate) fn new(value: &'a Value, expected: &'static str) -> Result<Self> {
        match value {
            Value::Object(values) => Ok(Self {
                values,
                path: String::new(),
            }),
            _ => Err(ClipVisionError::Json {
                expected,
                source: None,
            }),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// The object under a key, if there is one.
    pub(crate) fn inner(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                values,
                path: format!("{}{key}.", self.path),
            })),
            Some(_) => self.wrong(key, "an object"),
        }
    }

    /// A whole number within limits.
    pub(crate) fn count(&self, key: &str, default: usize, most: usize) -> Result<usize> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        match number {
            Some(number) if (1..=most).contains(&number) => Ok(number),
            _ => self.wrong(key, format!("a whole number from 1 to {most}")),
        }
    }

    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64> {
        let number = self.get(key).map(Value::as_f64).unwrap_or(Some(default));
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(number),
            None => self.wrong(key, "a number"),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key).map(Value::as_bool).unwrap_or(Some(default)) {
            Some(flag) => Ok(flag),
            None => self.wrong(key, "true or false"),
        }
    }

    /// Three numbers, one for each of red, green and blue.
    pub(crate) fn colour(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let numbers: Option<Vec<f32>> = numbers
            .iter()
            .map(|number| Some(number.as_f64()? as f32).filter(|number| number.is_finite()))
            .collect();
        match numbers.as_deref() {
            Some(&[red, green, blue]) => Ok([red, green, blue]),
            _ => self.wrong(key, "three numbers, for red, green and blue"),
        }
    }

    /// The error that a value is not what it should be.
    pub(crate) fn wrong<T>(&self, key: &str, expected: impl Into<String>) -> Result<T> {
        Err(ClipVisionError::Value {
            key: format!("{}{key}", self.path),
            found: self.get(key).unwrap_or(&Value::Null).to_string(),
            expected: expected.into(),
        })
    }
}

/// A JSON text.
pub(crate) fn parse(text: &str, expected: &'static str) -> Result<Value> {
    serde_json::from_str(text).map_err(|source| ClipVisionError::Json {
        expected,
        source: Some(source),
    })
}
