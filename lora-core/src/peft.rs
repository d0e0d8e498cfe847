//! PEFT's settings, as diffusers keeps them in a file's metadata and PEFT beside it.

use serde_json::{Map, Value};

use crate::{Component, LoraError};

/// The metadata entry in which diffusers (from 0.34) keeps PEFT's settings.
pub(crate) const ENTRY: &str = "lora_adapter_metadata";

/// Rank and alpha, with their exceptions by module.
pub(crate) struct PeftConfig {
    entry: String,
    settings: Map<String, Value>,
}

impl PeftConfig {
    /// The settings of one component out of diffusers' entry (`unet.r`, `unet.lora_alpha`, …), or `None` if it has none.
    pub fn of_component(
        file: &str,
        text: &str,
        component: Component,
    ) -> Result<Option<Self>, LoraError> {
        let all = object(file, ENTRY, text)?;
        let own = all.into_iter().filter_map(|(key, value)| {
            Some((key.strip_prefix(component.peft_prefix())?.to_owned(), value))
        });
        let settings: Map<_, _> = own.collect();
        Ok((!settings.is_empty()).then(|| Self {
            entry: ENTRY.to_owned(),
            settings,
        }))
    }

    /// The settings in PEFT's `adapter_config.json`.
    pub fn plain(file: &str, entry: &str, text: &str) -> Result<Self, LoraError> {
        Ok(Self {
            entry: entry.to_owned(),
            settings: object(file, entry, text)?,
        })
    }

    /// The alpha of a module, in the sense of ΔW = (alpha / rank) · up · down, or `None` if the settings tell none.
    pub fn alpha(&self, file: &str, path: &str, rank: usize) -> Result<Option<f64>, LoraError> {
        let wrong = |reason| LoraError::Metadata {
            file: file.to_owned(),
            entry: self.entry.clone(),
            reason,
        };
        let told_rank = self.number("r", "rank_pattern", path).map_err(wrong)?;
        if let Some(told) = told_rank.filter(|&told| told != rank as f64) {
            return Err(wrong(format!(
                "`{path}` has rank {told} there, its tensors have {rank}"
            )));
        }
        let alpha = self
            .number("lora_alpha", "alpha_pattern", path)
            .map_err(wrong)?;
        let rank_stabilised = self
            .settings
            .get("use_rslora")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        // rsLoRA divides by √rank (Kalajdzievski 2023, eq. 4).
        Ok(alpha.map(|alpha| {
            if rank_stabilised {
                alpha * (rank as f64).sqrt()
            } else {
                alpha
            }
        }))
    }

    /// A number, or the one that the first matching pattern gives.
    fn number(&self, default: &str, patterns: &str, path: &str) -> Result<Option<f64>, String> {
        let number = |name: &str, value: &Value| {
            let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
            number.ok_or_else(|| format!("`{name}` is {value}; expected a number above 0"))
        };
        if let Some(Value::Object(patterns)) = self.settings.get(patterns) {
            for (pattern, value) in patterns {
                if matches(pattern, path)? {
                    return number(pattern, value).map(Some);
                }
            }
        }
        match self.settings.get(default) {
            Some(Value::Null) | None => Ok(None),
            Some(value) => number(default, value).map(Some),
        }
    }
}

/// PEFT's rule, `(.*\.)?(PATTERN)$`, for patterns that are module names, whole or from some part on.
fn matches(pattern: &str, path: &str) -> Result<bool, String> {
    let (anchored, name) = match pattern.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, pattern),
    };
    let name = name.strip_suffix('$').unwrap_or(name).replace("\\.", ".");
    if name.contains([
        '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\',
    ]) {
        return Err(format!(
            "pattern `{pattern}` is a regular expression; expected a module's name"
        ));
    }
    let before = path.strip_suffix(name.as_str());
    Ok(before.is_some_and(|before| before.is_empty() || !anchored && before.ends_with('.')))
}

fn object(file: &str, entry: &str, text: &str) -> Result<Map<String, Value>, LoraError> {
    let wrong = |reason| LoraError::Metadata {
        file: file.to_owned(),
        entry: entry.to_owned(),
        reason,
    };
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("expected a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("expected a JSON object: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_names_from_some_part_on() {
        let path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
        for (pattern, expected) in [
            ("to_q", true),
            ("attn1.to_q", true),
            (r"attn1\.to_q$", true),
            ("^attn1.to_q", false),
            ("o_q", false),
            (path, true),
            (
                "^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
                true,
            ),
            ("to_k", false),
        ] {
            assert_eq!(matches(pattern, path), Ok(expected), "{pattern}");
        }
        assert!(matches("to_(q|k)", path).is_err());
    }

    #[test]
    fn rank_stabilised_alpha_and_exceptions() {
        let text = r#"{"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": true,
            "unet.alpha_pattern": {"to_k": 2}, "unet.rank_pattern": {"to_v": 9}}"#;
        let config = PeftConfig::of_component("f", text, Component::Unet)
            .unwrap()
            .unwrap();
        assert_eq!(config.alpha("f", "attn1.to_q", 4).unwrap(), Some(16.0));
        assert_eq!(config.alpha("f", "attn1.to_k", 4).unwrap(), Some(4.0));
        assert_eq!(config.alpha("f", "attn1.to_v", 9).unwrap(), Some(24.0));
        assert!(config.alpha("f", "attn1.to_v", 4).is_err());
        assert!(
            PeftConfig::of_component("f", text, Component::TextEncoder)
                .unwrap()
                .is_none()
        );
        assert!(PeftConfig::plain("f", "adapter_config.json", "[1]").is_err());
    }
}
