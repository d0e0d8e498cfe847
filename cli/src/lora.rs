use std::path::{Path, PathBuf};

use lora_core::{ComponentSummary, Lora, Summary};
use serde_json::{Value, json};

use crate::args::Common;
use crate::console::print;
use crate::failure::{Blame, Failure};

/// `samecast lora info`
pub fn info(files: &[PathBuf], common: &Common) -> Result<Value, Failure> {
    let mut all = vec![];
    for file in files {
        let lora = Lora::open(file).input()?;
        let summary = lora.summary();
        if !common.json {
            print(text(file, &summary))?;
        }
        all.push(as_json(file, &summary));
    }
    Ok(json!({ "files": all }))
}

fn text(file: &Path, summary: &Summary) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let mut lines = vec![file.display().to_string()];
    let mut line = |key: &str, value: String| lines.push(format!("  {key:<14} {value}"));
    line(
        "dialect",
        list(summary.spellings.iter().map(ToString::to_string).collect()),
    );
    line("numbers", list(summary.dtypes.iter().cloned().collect()));
    line("parameters", summary.parameters.to_string());
    for (component, own) in &summary.components {
        line(&component.to_string(), component_text(own));
    }
    for (key, name) in [
        ("modelspec.title", "title"),
        ("modelspec.trigger_phrase", "trigger"),
        ("ss_base_model_version", "base version"),
        ("ss_sd_model_name", "trained on"),
        ("ss_steps", "steps"),
        ("ss_num_train_images", "pictures"),
    ] {
        if let Some(value) = summary.metadata.get(key) {
            line(name, value.clone());
        }
    }
    if let Some(hashes) = &summary.hashes {
        line("sha256", hashes.sha256.clone());
        line("AutoV3", hashes.model_hash.chars().take(12).collect());
    }
    lines.join("\n")
}

fn component_text(own: &ComponentSummary) -> String {
    let ranks: Vec<String> = own.ranks.keys().map(ToString::to_string).collect();
    let alphas: Vec<String> = own
        .alphas
        .iter()
        .map(|(alpha, _)| alpha.to_string())
        .collect();
    let convolutions = match own.convolutions {
        0 => String::new(),
        count => format!(", {count} of them convolutions"),
    };
    format!(
        "{} modules{convolutions}; rank {}, alpha {}",
        own.modules,
        ranks.join(" "),
        alphas.join(" ")
    )
}

fn as_json(file: &Path, summary: &Summary) -> Value {
    let components: serde_json::Map<String, Value> = summary
        .components
        .iter()
        .map(|(component, own)| {
            let value = json!({
                "modules": own.modules,
                "convolutions": own.convolutions,
                "ranks": own.ranks,
                "alphas": own.alphas,
            });
            (component.to_string(), value)
        })
        .collect();
    json!({
        "file": file.to_string_lossy(),
        "dialects": summary.spellings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "dtypes": summary.dtypes,
        "parameters": summary.parameters,
        "components": components,
        "hashes": summary.hashes.as_ref().map(|hashes| json!({
            "sha256": hashes.sha256,
            "sshs_model_hash": hashes.model_hash,
        })),
        "metadata": summary.metadata,
    })
}
