use std::path::Path;

use character_library::{Library, LibraryError, LibrarySettings};
use serde_json::{Value, json};

use crate::args::Common;
use crate::character::portable;
use crate::console::print;
use crate::failure::Failure;

/// `samecast library init`
pub fn init(dir: &Path, model: Option<&Path>, common: &Common) -> Result<Value, Failure> {
    let settings = LibrarySettings {
        model: model.map(|path| portable("model", path)).transpose()?,
    };
    let library = Library::init(dir, settings).map_err(blamed)?;
    if !common.json {
        print(library.root().display())?;
    }
    Ok(json!({ "library": library.root().to_string_lossy() }))
}

/// Names, settings and pictures are the user's; what happens on the way is not.
pub fn blamed(error: LibraryError) -> Failure {
    match error.is_input() {
        true => Failure::Input(error.into()),
        false => Failure::Work(error.into()),
    }
}
