//! The page of a verification: one file, which needs nothing beside it.

use std::fmt::Write as _;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use lora_trainer::StepReport;

use crate::files::png;
use crate::report::Report;

const STYLE: &str = "
:root { --paper: #faf9f6; --ink: #21252b; --grey: #6e747d; --line: #dddbd4; --card: #fff; --good: #1a7f56; --bad: #b84034; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17191d; --ink: #e9e7e2; --grey: #9aa0a8; --line: #34373d; --card: #1f2227; --good: #4cc38a; --bad: #f0806f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { margin: 0; font-size: 34px; } h2 { margin: 36px 0 10px; font-size: 21px; } p { margin: 6px 0; }
.grey { color: var(--grey); }
.verdict { margin: 18px 0; padding: 12px 16px; border-left: 6px solid; border-radius: 4px; background: var(--card); font-weight: 600; }
.good { border-color: var(--good); color: var(--good); } .bad { border-color: var(--bad); color: var(--bad); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: 6px 18px 6px 0; text-align: left; }
th { font-weight: 600; color: var(--grey); } tr + tr td { border-top: 1px solid var(--line); }
.mark { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 9px; }
.scenes { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.scene { min-width: 0; } .scene p { font-size: 14px; }
.pictures { display: grid; gap: 6px; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); }
figure { margin: 0; } figcaption { font-size: 12px; color: var(--grey); font-variant-numeric: tabular-nums; }
img { display: block; width: 100%; border-radius: 5px; }
svg { width: 100%; height: auto; background: var(--card); border-radius: 6px; }
";

/// A page that shows all pictures with their scores, the verdict, and the loss curve where the losses are known. Pictures are inlined.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn page(report: &Report) -> io::Result<String> {
    let subject = &report.subject;
    let mut html = String::new();
    let name = escaped(&subject.name);
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}: {}</title>\n<style>{STYLE}</style>\n<h1>{name}</h1>\n\
         <p class=\"grey\">{} scenes with {} seeds each, on the model {}, with the LoRA {}. Scored by {} on the face region {}.</p>\n",
        match report.verdict.consistent {
            true => "consistent",
            false => "not consistent",
        },
        subject.scenes.len(),
        subject.seeds.len(),
        escaped(&subject.model),
        escaped(&subject.lora),
        escaped(&subject.clip),
        subject.face,
    );
    let class = match report.verdict.consistent {
        true => "good",
        false => "bad",
    };
    let _ = writeln!(
        html,
        "<p class=\"verdict {class}\">{}</p>",
        escaped(&report.conclusion())
    );
    scores(&mut html, report);

    html.push_str("<h2>References</h2>\n<div class=\"pictures\">\n");
    for (number, picture) in report.references.iter().enumerate() {
        figure(&mut html, picture, &format!("reference {}", number + 1), "")?;
    }
    html.push_str("</div>\n");
    let words = subject.words();
    for (drawn, scores) in &report.rows {
        let [r, g, b] = drawn.way.color().0;
        let _ = writeln!(
            html,
            "<h2><span class=\"mark\" style=\"background:rgb({r},{g},{b})\"></span>{}</h2>\n<div class=\"scenes\">",
            drawn.way.title()
        );
        let seeds = subject.seeds.len();
        for (scene, words) in words.iter().enumerate() {
            let _ = writeln!(
                html,
                "<div class=\"scene\"><p>{}</p><div class=\"pictures\">",
                escaped(words)
            );
            for (at, seed) in subject.seeds.iter().enumerate() {
                let index = scene * seeds + at;
                let told = format!("{words}, {}, seed {seed}", drawn.way.title());
                let caption = format!("seed {seed}, {:.3}", scores.likeness[index]);
                figure(&mut html, &drawn.pictures[index], &told, &caption)?;
            }
            html.push_str("</div></div>\n");
        }
        html.push_str("</div>\n");
    }
    if let Some(losses) = subject
        .losses
        .as_ref()
        .filter(|losses| losses.steps.len() > 1)
    {
        let _ = writeln!(
            html,
            "<h2>Training</h2>\n<p class=\"grey\">Loss over {} steps: each step pale, and its running mean.</p>\n{}",
            losses.steps.len(),
            curve(&losses.steps)
        );
    }
    html.push_str("</html>\n");
    Ok(html)
}

/// The table of scores, and how they are meant.
fn scores(html: &mut String, report: &Report) {
    html.push_str("<table><tr><th></th><th>CLIP-I</th><th>CLIP-T</th><th>spread</th></tr>\n");
    let clip_t = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    let _ = writeln!(
        html,
        "<tr><td>references among themselves</td><td>{:.3}</td><td>–</td><td>{:.3}</td></tr>",
        report.agreement, report.reference_spread
    );
    for (drawn, scores) in &report.rows {
        let [r, g, b] = drawn.way.color().0;
        let _ = writeln!(
            html,
            "<tr><td><span class=\"mark\" style=\"background:rgb({r},{g},{b})\"></span>{}</td><td>{:.3}</td><td>{}</td><td>{:.3}</td></tr>",
            drawn.way.title(),
            scores.clip_i(),
            clip_t(scores.clip_t()),
            scores.spread
        );
    }
    let thresholds = &report.subject.thresholds;
    let verdict = &report.verdict;
    let closed = verdict
        .closed
        .map_or("no gap to close".to_owned(), |closed| {
            format!("{:.0} %", 100.0 * closed)
        });
    let _ = writeln!(
        html,
        "</table>\n<p class=\"grey\">CLIP-I: mean cosine of the face region to the references. CLIP-T: cosine of the picture to its scene's words. \
         Spread: mean of 1 − cosine between the faces of a row. The LoRA closes {closed} of the gap between a stranger (the row without it) and \
         the references, at least {:.0} % asked; reaches {:.0} % of the references' own agreement, at least {:.0} % asked; and gains {:.1} \
         standard errors, at least {} asked.</p>",
        100.0 * thresholds.margin,
        100.0 * verdict.share,
        100.0 * thresholds.share,
        verdict.certainty,
        thresholds.certainty,
    );
}

fn figure(html: &mut String, picture: &RgbImage, told: &str, caption: &str) -> io::Result<()> {
    let data = STANDARD.encode(png(picture)?);
    let _ = write!(
        html,
        "<figure><img alt=\"{}\" src=\"data:image/png;base64,{data}\" width=\"{}\" height=\"{}\">",
        escaped(told),
        picture.width(),
        picture.height()
    );
    if !caption.is_empty() {
        let _ = write!(html, "<figcaption>{}</figcaption>", escaped(caption));
    }
    html.push_str("</figure>\n");
    Ok(())
}

/// The loss over the steps.
fn curve(steps: &[StepReport]) -> String {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 64.0;
    const BOTTOM: f64 = 34.0;
    const TOP: f64 = 14.0;
    let most = steps
        .iter()
        .map(|step| f64::from(step.loss))
        .fold(1e-9, f64::max);
    let last = steps.last().map_or(1.0, |step| step.step as f64).max(2.0);
    let place = |step: usize, loss: f64| {
        let x = LEFT + (WIDTH - LEFT - 16.0) * (step as f64 - 1.0) / (last - 1.0);
        let y = TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - loss / most);
        format!("{x:.1},{y:.1}")
    };
    // A point for each pixel is enough.
    let every = steps.len().div_ceil(WIDTH as usize);
    let mut raw = vec![];
    let mut smooth = vec![];
    let mut mean: Option<f64> = None;
    for (at, report) in steps.iter().enumerate() {
        let loss = f64::from(report.loss);
        let now = mean.map_or(loss, |mean| 0.95 * mean + 0.05 * loss);
        mean = Some(now);
        if at % every == 0 || at + 1 == steps.len() {
            raw.push(place(report.step, loss));
            smooth.push(place(report.step, now));
        }
    }
    let mut grid = String::new();
    for quarter in 0..=4 {
        let loss = most * f64::from(quarter) / 4.0;
        let y = TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - f64::from(quarter) / 4.0);
        let _ = write!(
            grid,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"currentColor\" stroke-opacity=\"0.13\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3}</text>",
            WIDTH - 16.0,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for (x, anchor, step) in [(LEFT, "start", 1.0), (WIDTH - 16.0, "end", last)] {
        let _ = write!(
            grid,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">step {step}</text>",
            HEIGHT - 10.0
        );
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"training loss\" font-size=\"13\" fill=\"currentColor\">{grid}\
         <polyline fill=\"none\" stroke=\"#2f6fc4\" stroke-opacity=\"0.28\" points=\"{}\"/>\
         <polyline fill=\"none\" stroke=\"#2f6fc4\" stroke-width=\"2.2\" points=\"{}\"/></svg>",
        raw.join(" "),
        smooth.join(" ")
    )
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::report::{Drawn, Subject, Way};
    use crate::score::Scores;
    use crate::verdict::{Thresholds, judge};
    use crate::{FaceRegion, LossLog, contact_sheet};

    fn report(losses: Option<LossLog>) -> Report {
        let seeds = vec![3, 4];
        let scenes = vec![
            "a {class} <b>".to_owned(),
            "a {class} in a park & a \"dog\"".to_owned(),
        ];
        let paint = |way: usize, at: usize| {
            RgbImage::from_pixel(24, 24, Rgb([way as u8 * 60, at as u8 * 40, 99]))
        };
        let rows = Way::ALL.iter().enumerate().map(|(number, &way)| {
            let drawn = Drawn {
                way,
                pictures: (0..4).map(|at| paint(number, at)).collect(),
            };
            let scores = Scores {
                likeness: vec![0.5 + 0.1 * number as f64; 4],
                agreement: Some(vec![0.25; 4]),
                spread: 0.125,
            };
            (drawn, scores)
        });
        let thresholds = Thresholds::default();
        Report {
            references: vec![paint(0, 5); 5],
            agreement: 0.8,
            reference_spread: 0.2,
            rows: rows.collect(),
            verdict: judge(0.8, &[0.5; 4], &[0.6, 0.61, 0.62, 0.63], &thresholds),
            subject: Subject {
                name: "mi<ra".into(),
                class: "woman".into(),
                model: "tiny".into(),
                lora: "mira_v1".into(),
                clip: "vit".into(),
                scenes,
                seeds,
                face: FaceRegion::WHOLE,
                thresholds,
                losses,
            },
        }
    }

    #[test]
    fn the_page_stands_alone_and_shows_everything() {
        let steps = (1..=50).map(|step| StepReport {
            step,
            loss: 1.0 / step as f32,
            learning_rate: 1e-4,
        });
        let losses = LossLog {
            steps: steps.collect(),
        };
        let html = page(&report(Some(losses))).unwrap();
        // Four ways with two scenes and two seeds, and five references.
        assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 16 + 5);
        assert_eq!(html.matches("src=").count(), 21);
        for outside in ["http://", "https://", "<script", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("mi&lt;ra") && !html.contains("mi<ra"));
        assert!(html.contains("a woman &lt;b&gt;"));
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(!page(&report(None)).unwrap().contains("<svg"));
    }

    #[test]
    fn the_sheet_shows_the_first_seed_of_every_scene_in_every_way() {
        let report = report(None);
        let sheet = contact_sheet(&report);
        for (drawn, _) in &report.rows {
            for (at, picture) in drawn.pictures.iter().enumerate() {
                let color = picture.get_pixel(0, 0);
                let count = sheet.pixels().filter(|pixel| *pixel == color).count();
                assert_eq!(count > 30_000, at % 2 == 0, "{:?} {at}: {count}", drawn.way);
            }
        }
    }
}
