use std::path::{Path, PathBuf};

use clip_vision::on_white;
use sd_pipeline::{Grade, ReferenceCheck, check_reference};
use serde_json::{Value, json};

use crate::args::Common;
use crate::console::print;
use crate::failure::Failure;
use crate::picture::read_argument;

/// What no measure here tells, and everybody sees.
const LOOK: [&str; 3] = [
    "is the face seen from the front, or nearly, with both eyes in view? A profile gives a weak likeness",
    "is it drawn in the style that you want? Its style bleeds into the pictures: a drawing makes drawings, a photograph photographs",
    "is nobody else in it, and the ground plain or removed? What is around the face comes along",
];

/// `samecast reference check`
pub fn check(files: &[PathBuf], common: &Common) -> Result<Value, Failure> {
    let checked = files
        .iter()
        .map(|file| Ok((file, check_reference(&on_white(read_argument(file)?)))))
        .collect::<Result<Vec<_>, Failure>>()?;
    if !common.json {
        for (file, check) in &checked {
            print(text(file, check))?;
        }
        if !common.quiet {
            print(format_args!("look for yourself:\n  {}", LOOK.join("\n  ")))?;
        }
    }
    let poor: Vec<String> = checked
        .iter()
        .filter(|(_, check)| check.grade() == Grade::Poor)
        .map(|(file, _)| file.display().to_string())
        .collect();
    let all: Vec<Value> = checked
        .iter()
        .map(|(file, check)| as_json(file, check))
        .collect();
    let report = json!({ "files": all, "usable": poor.is_empty(), "look_for_yourself": LOOK });
    if poor.is_empty() {
        return Ok(report);
    }
    Err(Failure::Found {
        error: anyhow::anyhow!("{}: will not do as a reference", poor.join(", ")),
        report,
    })
}

fn text(file: &Path, check: &ReferenceCheck) -> String {
    let mut lines = vec![format!("{}: {}", file.display(), check.grade())];
    let mut line = |what: &str, grade: Grade, told: String| {
        lines.push(format!("  {what:<7} {grade:<7} {told}"));
    };
    line(
        "size",
        check.size,
        format!("{} × {} pixels", check.width, check.height),
    );
    line(
        "clear",
        check.clear,
        format!(
            "detail of about {:.0} pixels of the shorter side, sharpness {:.3}",
            check.detail, check.sharpness
        ),
    );
    line(
        "square",
        check.square,
        format!(
            "a cut to the square takes {:.0} % of the {}",
            100.0 * check.lost,
            longer(check)
        ),
    );
    line(
        "light",
        check.light,
        format!("from {:.0} to {:.0} of 255", check.dark, check.bright),
    );
    lines.extend(advice(check).iter().map(|told| format!("  → {told}")));
    lines.join("\n")
}

fn as_json(file: &Path, check: &ReferenceCheck) -> Value {
    let rounded = |value: f64, digits: i32| {
        let unit = 10_f64.powi(digits);
        (value * unit).round() / unit
    };
    let grade = |grade: Grade| grade.to_string();
    json!({
        "file": file.to_string_lossy(),
        "grade": grade(check.grade()),
        "width": check.width,
        "height": check.height,
        "size": { "grade": grade(check.size), "shorter_side": check.width.min(check.height) },
        "clear": {
            "grade": grade(check.clear),
            "detail": rounded(check.detail, 1),
            "sharpness": rounded(check.sharpness, 4),
        },
        "square": { "grade": grade(check.square), "lost": rounded(check.lost, 4) },
        "light": {
            "grade": grade(check.light),
            "dark": rounded(check.dark, 1),
            "bright": rounded(check.bright, 1),
        },
        "advice": advice(check),
    })
}

fn longer(check: &ReferenceCheck) -> &'static str {
    match check.height > check.width {
        true => "height",
        false => "width",
    }
}

/// What would make it a better reference.
fn advice(check: &ReferenceCheck) -> Vec<String> {
    let mut all = vec![];
    match check.size {
        Grade::Good => {}
        Grade::Usable => all.push(
            "a picture of 512 pixels or more would be better; cut it from the original, do not enlarge this one"
                .to_string(),
        ),
        Grade::Poor => all.push(
            "too small: the image encoder sees 224 × 224 pixels of it; take a picture of 512 or more, not this one enlarged"
                .to_string(),
        ),
    }
    let short = f64::from(check.width.min(check.height));
    if check.clear != Grade::Good && check.light != Grade::Poor && check.size != Grade::Poor {
        all.push(match check.detail < 0.6 * short {
            true => format!(
                "blurred: it looks enlarged about {:.0} times, or is out of focus; look for the original or a sharper picture",
                short / check.detail
            ),
            false => "soft: hardly an edge in it is sharp; look for a sharper picture".to_string(),
        });
    }
    if check.square != Grade::Good {
        let ends = match check.height > check.width {
            true => "top and bottom",
            false => "left and right",
        };
        let whole = match check.lost > 0.2 {
            true => "--ip-fit pad",
            false => "--ip-fit squash",
        };
        all.push(format!(
            "not square: {:.0} % of its {} is cut off at {ends} before the image encoder sees it; cut it yourself to a square around head and \
             shoulders, or give `generate` {whole} to keep all of it",
            100.0 * check.lost,
            longer(check),
        ));
    }
    if check.light != Grade::Good {
        let contrast = check.bright - check.dark;
        all.push(
            if contrast < 12.0 {
                "next to nothing is to be seen in it"
            } else if check.bright < 80.0 {
                "very dark: brighten it, or take another"
            } else if check.dark > 200.0 {
                "very bright: darken it, or take another"
            } else {
                "little contrast: raise it, or take another"
            }
            .to_string(),
        );
    }
    all
}
