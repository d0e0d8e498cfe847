//! `--ip-adapter` and the options that belong to it.

use std::path::PathBuf;

use character_library::FaceRegion;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use ip_adapter::{LayerWeights, Uncond};

/// What `--ip-scale` is where it is not given.
pub const DEFAULT_SCALE: f64 = 0.6;

/// Adapters in the order in which they are given, and where their portraits are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IpOptions {
    /// The adapters.
    pub adapters: Vec<AdapterOptions>,
    /// The folder for portraits, where one is named.
    pub cache: Option<PathBuf>,
    /// Whether portraits are not kept at all.
    pub no_cache: bool,
}

/// One `--ip-adapter`, and what was said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterOptions {
    /// The adapter's file.
    pub file: PathBuf,
    /// Its image encoder.
    pub encoder: Option<PathBuf>,
    /// Reference pictures.
    pub images: Vec<PathBuf>,
    /// A file of face embeddings.
    pub face: Option<PathBuf>,
    /// The version of a FaceID-Plus adapter.
    pub face_version: Option<FaceVersion>,
    /// Strength.
    pub scale: Option<f64>,
    /// Share of the steps after which it begins to act.
    pub start: Option<f64>,
    /// Share of the steps after which it acts no more.
    pub end: Option<f64>,
    /// A factor for each layer.
    pub weights: Option<LayerWeights>,
    /// Where it acts.
    pub masks: Vec<PathBuf>,
    /// How several references are taken together.
    pub combine: Option<Combine>,
    /// A picture to draw away from.
    pub negative: Option<PathBuf>,
    /// Whose unconditional input.
    pub uncond: Option<Uncond>,
    /// How a picture gets into a square.
    pub fit: Option<FitChoice>,
    /// The part of its references that it sees.
    pub region: Option<FaceRegion>,
}

/// How several references are taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Combine {
    /// Each has its tokens, and they are attended to together
    #[default]
    Concat,
    /// Their mean is the reference
    Average,
}

/// How a picture that is not square gets into a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FitChoice {
    /// Its middle is cut out, as in the reference
    #[default]
    Crop,
    /// It is squeezed
    Squash,
    /// Black is put beside it
    Pad,
}

/// The version of a FaceID-Plus adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaceVersion {
    /// ip-adapter-faceid-plus_sd15
    #[value(name = "1")]
    One,
    /// ip-adapter-faceid-plusv2_sd15
    #[value(name = "2")]
    Two,
}

/// The options as clap reads them, before they are told apart.
#[derive(Args, Debug)]
#[command(next_help_heading = "Reference pictures (IP-Adapter)")]
struct Flat {
    /// An IP-Adapter for Stable Diffusion 1.5, .safetensors or .bin. Given several times, they add up, and each of the options below is
    /// for the last --ip-adapter before it
    #[arg(long, value_name = "FILE")]
    ip_adapter: Vec<PathBuf>,
    /// The image encoder that the adapter was trained with: a folder or a file; given once, it is for every adapter
    #[arg(long, value_name = "DIR|FILE")]
    image_encoder: Vec<PathBuf>,
    /// Reference pictures of the character
    #[arg(long, value_name = "PNG", num_args = 1..)]
    ip_image: Vec<PathBuf>,
    /// Strength of the references, -10 to 10 [default: 0.6]
    #[arg(long, value_name = "SCALE", value_parser = scale)]
    ip_scale: Vec<f64>,
    /// Share of the steps after which the references begin to act: 0 to 1 [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    ip_start: Vec<f64>,
    /// Share of the steps after which they act no more: 0 to 1 [default: 1]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    ip_end: Vec<f64>,
    /// Strength in each layer: style, composition, style+composition, or LAYER:WEIGHT,… in ComfyUI's count, others 0 [default: 1 in all]
    #[arg(long, value_name = "WEIGHTS")]
    ip_weights: Vec<LayerWeights>,
    /// Where the references act, in white: a picture of the size that is drawn, for all references or one for each
    #[arg(long, value_name = "PNG", num_args = 1..)]
    ip_mask: Vec<PathBuf>,
    /// Several references side by side, or their mean [default: concat]
    #[arg(long, value_enum, value_name = "HOW")]
    ip_combine: Vec<Combine>,
    /// A picture to draw away from
    #[arg(long, value_name = "PNG")]
    ip_negative: Vec<PathBuf>,
    /// What guidance compares with: reference (tencent, diffusers), comfy or sdcpp [default: reference]
    #[arg(long, value_name = "ENGINE")]
    ip_uncond: Vec<Uncond>,
    /// How a picture that is not square gets into a square [default: crop]
    #[arg(long, value_enum, value_name = "HOW")]
    ip_fit: Vec<FitChoice>,
    /// The part of the references that the adapter sees, the face for a plus-face adapter: left edge, upper edge and side of a square, as
    /// shares of the middle square [default: all]
    #[arg(long, value_name = "LEFT,TOP,SIDE")]
    ip_region: Vec<FaceRegion>,
    /// Face embeddings for a FaceID adapter: a .safetensors with one tensor, 512 or faces x 512, or a JSON list
    #[arg(long, value_name = "FILE")]
    ip_face: Vec<PathBuf>,
    /// Version of a FaceID-Plus adapter, which its tensors do not tell
    #[arg(long, value_enum, value_name = "VERSION")]
    ip_face_version: Vec<FaceVersion>,
    /// Folder that keeps portraits, so that the next run needs no image encoder [default: samecast in the system's folder for caches]
    #[arg(long, value_name = "DIR", conflicts_with = "no_ip_cache")]
    ip_cache: Option<PathBuf>,
    /// Keep no portraits
    #[arg(long)]
    no_ip_cache: bool,
}

fn number(text: &str, [least, most]: [f64; 2]) -> Option<f64> {
    let value = text.parse().ok()?;
    // NaN is in no range.
    (least..=most).contains(&value).then_some(value)
}

fn scale(text: &str) -> Result<f64, String> {
    number(text, [-10.0, 10.0]).ok_or("a number from -10 to 10, such as 0.6, is expected".into())
}

fn share(text: &str) -> Result<f64, String> {
    number(text, [0.0, 1.0]).ok_or("a share of the steps, 0 to 1, is expected".into())
}

impl Args for IpOptions {
    fn augment_args(command: Command) -> Command {
        Flat::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flat::augment_args_for_update(command)
    }
}

impl FromArgMatches for IpOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flat = Flat::from_arg_matches(matches)?;
        let conflict = |message: String| clap::Error::raw(ErrorKind::ArgumentConflict, message);
        group(flat, |option| {
            matches.indices_of(option).into_iter().flatten().collect()
        })
        .map_err(|message| conflict(format!("{message}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Gives each option to its adapter. `places` tells where on the command line an option's values stand.
///
/// With one adapter everything is for it, wherever it stands. With several, an option is for the last `--ip-adapter` before it.
fn group(flat: Flat, places: impl Fn(&str) -> Vec<usize>) -> Result<IpOptions, String> {
    let begins = places("ip_adapter");
    let mut adapters: Vec<AdapterOptions> = flat
        .ip_adapter
        .into_iter()
        .map(|file| AdapterOptions {
            file,
            ..AdapterOptions::default()
        })
        .collect();
    let owner = |option: &str, place: usize| -> Result<usize, String> {
        let option = option.replace('_', "-");
        match begins.len() {
            0 => Err(format!(
                "--{option} belongs to an adapter: give one by --ip-adapter FILE"
            )),
            1 => Ok(0),
            // The first adapter that begins after the option, less one.
            _ => begins.partition_point(|&begin| begin < place).checked_sub(1).ok_or_else(|| {
                format!("--{option} stands before the first of several --ip-adapter; put it after the adapter that it is for")
            }),
        }
    };
    /// Values of one option with their adapters.
    fn owned<T>(
        option: &str,
        values: Vec<T>,
        places: &[usize],
        owner: impl Fn(&str, usize) -> Result<usize, String>,
    ) -> Result<Vec<(usize, T)>, String> {
        let each = values.into_iter().zip(places);
        each.map(|(value, &place)| Ok((owner(option, place)?, value)))
            .collect()
    }
    macro_rules! many {
        ($option:ident => $field:ident) => {
            let name = stringify!($option);
            for (at, value) in owned(name, flat.$option, &places(name), owner)? {
                adapters[at].$field.push(value);
            }
        };
    }
    macro_rules! one {
        ($option:ident => $field:ident) => {
            let name = stringify!($option);
            for (at, value) in owned(name, flat.$option, &places(name), owner)? {
                if adapters[at].$field.replace(value).is_some() {
                    return Err(twice(name, &adapters[at]));
                }
            }
        };
    }
    many!(ip_image => images);
    many!(ip_mask => masks);
    one!(ip_scale => scale);
    one!(ip_start => start);
    one!(ip_end => end);
    one!(ip_weights => weights);
    one!(ip_combine => combine);
    one!(ip_negative => negative);
    one!(ip_uncond => uncond);
    one!(ip_fit => fit);
    one!(ip_region => region);
    one!(ip_face => face);
    one!(ip_face_version => face_version);
    match flat.image_encoder.as_slice() {
        [encoder] if !adapters.is_empty() => {
            for adapter in &mut adapters {
                adapter.encoder = Some(encoder.clone());
            }
        }
        _ => {
            one!(image_encoder => encoder);
        }
    }
    for (option, given) in [
        ("--ip-cache", flat.ip_cache.is_some()),
        ("--no-ip-cache", flat.no_ip_cache),
    ] {
        if given && adapters.is_empty() {
            return Err(format!(
                "{option} is for portraits: give an adapter by --ip-adapter FILE"
            ));
        }
    }
    Ok(IpOptions {
        adapters,
        cache: flat.ip_cache,
        no_cache: flat.no_ip_cache,
    })
}

fn twice(option: &str, adapter: &AdapterOptions) -> String {
    format!(
        "--{} is given twice for {}; give it once for each --ip-adapter",
        option.replace('_', "-"),
        adapter.file.display()
    )
}

impl AdapterOptions {
    /// Options of one adapter that contradict each other or have no use.
    ///
    /// # Errors
    /// Names them.
    pub fn check(&self) -> Result<(), String> {
        let file = self.file.display();
        if self.images.is_empty() && self.face.is_none() {
            return Err(format!(
                "--ip-adapter {file}: no reference is given for it; give pictures by --ip-image, or face embeddings by --ip-face"
            ));
        }
        let (start, end) = (self.start.unwrap_or(0.0), self.end.unwrap_or(1.0));
        if start > end {
            return Err(format!(
                "--ip-start of {file} is {start}, after its --ip-end, which is {end}; a start before the end is expected"
            ));
        }
        if self.negative.is_some() && self.uncond.is_some() {
            return Err(format!(
                "--ip-uncond and --ip-negative of {file} are for the same half of guidance; give one of them"
            ));
        }
        if self.images.is_empty() && self.negative.is_none() && self.fit.is_some() {
            return Err(format!(
                "--ip-fit of {file} is of no use without --ip-image"
            ));
        }
        if self.images.is_empty() && self.region.is_some() {
            return Err(format!(
                "--ip-region of {file} is of no use without --ip-image"
            ));
        }
        if self.combine == Some(Combine::Average) && self.masks.len() > 1 {
            return Err(format!(
                "--ip-mask of {file}: {} masks for one mean of all references; give one, or leave out --ip-combine average",
                self.masks.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        ip: IpOptions,
    }

    fn read(line: &str) -> Result<Vec<AdapterOptions>, String> {
        let arguments = std::iter::once("samecast").chain(line.split_whitespace());
        let read = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
        Ok(read.ip.adapters)
    }

    #[test]
    fn with_one_adapter_order_does_not_matter() {
        let wanted = AdapterOptions {
            file: "plus".into(),
            encoder: Some("vit-h".into()),
            images: vec!["a".into(), "b".into(), "c".into()],
            scale: Some(0.8),
            ..AdapterOptions::default()
        };
        for line in [
            "--ip-adapter plus --image-encoder vit-h --ip-image a b --ip-image c --ip-scale 0.8",
            "--ip-scale 0.8 --ip-image a b c --image-encoder vit-h --ip-adapter plus",
        ] {
            assert_eq!(read(line), Ok(vec![wanted.clone()]), "{line}");
        }
    }

    #[test]
    fn with_several_an_option_is_for_the_adapter_before_it() {
        let adapters = read(
            "--ip-adapter base --ip-image a b --ip-scale 0.3 --image-encoder vit-h \
             --ip-adapter plus --ip-image c --ip-end 0.7 --ip-weights style",
        )
        .unwrap();
        let [base, plus] = adapters.as_slice() else {
            panic!("{adapters:?}");
        };
        assert_eq!(base.images, [PathBuf::from("a"), "b".into()]);
        assert_eq!(plus.images, [PathBuf::from("c")]);
        assert_eq!((base.scale, plus.scale), (Some(0.3), None));
        assert_eq!((base.end, plus.end), (None, Some(0.7)));
        assert_eq!(plus.weights, Some(LayerWeights::Style));
        // Given once, an encoder is for all.
        assert_eq!(base.encoder, Some("vit-h".into()));
        assert_eq!(plus.encoder, Some("vit-h".into()));
        let own = read(
            "--ip-adapter base --image-encoder vit-g --ip-image a --ip-adapter plus --image-encoder vit-h --ip-image b",
        )
        .unwrap();
        assert_eq!(own[0].encoder, Some("vit-g".into()));
        assert_eq!(own[1].encoder, Some("vit-h".into()));
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        for (line, told) in [
            ("--ip-image a", "--ip-image belongs to an adapter"),
            ("--image-encoder a", "--image-encoder belongs to an adapter"),
            ("--ip-scale 0.5", "--ip-scale belongs to an adapter"),
            ("--no-ip-cache", "--no-ip-cache is for portraits"),
            (
                "--ip-scale 0.5 --ip-adapter a --ip-adapter b",
                "--ip-scale stands before the first of several",
            ),
            (
                "--ip-adapter a --ip-scale 0.5 --ip-scale 0.6",
                "--ip-scale is given twice for a",
            ),
            (
                "--ip-adapter a --ip-adapter b --image-encoder c --image-encoder d",
                "--image-encoder is given twice for b",
            ),
            ("--ip-adapter a --ip-scale much", "a number from -10 to 10"),
            ("--ip-adapter a --ip-scale nan", "a number from -10 to 10"),
            ("--ip-adapter a --ip-end 1.01", "a share of the steps"),
            (
                "--ip-adapter a --ip-weights 0:x",
                "`x` in `0:x` is no weight",
            ),
            (
                "--ip-adapter a --ip-uncond mine",
                "`mine` is no unconditional input",
            ),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
