//! The pickle of a PyTorch file, evaluated as far as tensors need it.
//!
//! `pytorch-reader` refuses a dictionary whose keys are classes, which PyTorch Lightning's checkpoints have among their callbacks, and with it
//! the first Stable Diffusion files. Here every value that is no tensor, text, number, tuple or dictionary is opaque and may stand anywhere.
//! Nothing is called: of all names, the few are known by which PyTorch rebuilds tensors.
//!
//! Values live in flat lists and refer to each other by number, so that no nesting is deep to drop; [`super::pickle`] has bounded the opcodes.

use std::collections::HashMap;

use super::StoredType;

/// A tensor as a pickle describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub dtype: StoredType,
    /// The storage's name in the archive.
    pub storage: String,
    /// Where the tensor begins in its storage, in numbers.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Opaque,
    Int(i64),
    Text(&'a str),
    Global(&'a str, &'a str),
    Tuple(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// Dictionaries within dictionaries that are looked into for tensors.
const MAX_DEPTH: usize = 8;
/// Entries that are looked at in all, since a dictionary may be in many others.
const MAX_ENTRIES: usize = 1_000_000;

/// The tensors of a pickle with their names; names of nested dictionaries are joined by points.
///
/// # Errors
/// Says what the pickle lacks.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<(String, Described)>, String> {
    let mut machine = Machine {
        bytes: pickle,
        at: 0,
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        tuples: vec![],
        dicts: vec![],
        storages: vec![],
        tensors: vec![],
    };
    let root = machine.run()?;
    let (mut found, mut looked) = (vec![], 0);
    machine.collect(root, "", 0, &mut looked, &mut found)?;
    Ok(found)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<(StoredType, &'a str)>,
    tensors: Vec<Described>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, String> {
        loop {
            match self.take(1)?[0] {
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'2' => {
                    let top = self.pop()?;
                    self.stack.extend([top, top]);
                }
                b'N' | 0x88 | 0x89 | b']' | 0x8f => self.stack.push(Value::Opaque),
                b'F' | b'P' => {
                    self.line()?;
                    self.stack.push(Value::Opaque);
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Opaque);
                }
                b'I' | b'L' => {
                    let text = self.line()?;
                    let number = text.trim_end_matches('L').parse();
                    self.stack.push(number.map_or(Value::Opaque, Value::Int));
                }
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let number = self.number(4)?;
                    self.stack.push(Value::Int(i64::from(number as u32 as i32)));
                }
                opcode @ (0x8a | 0x8b) => {
                    let length = self.number(if opcode == 0x8a { 1 } else { 4 })?;
                    let bytes = self.take(length)?;
                    self.stack.push(long(bytes));
                }
                b'S' => {
                    let line = self.line()?;
                    self.stack.push(Value::Text(line.trim_matches(['\'', '"'])));
                }
                b'V' => {
                    let line = self.line()?;
                    self.stack.push(Value::Text(line));
                }
                opcode @ (b'U' | 0x8c | b'T' | b'X' | 0x8d) => {
                    let length = self.number(match opcode {
                        b'U' | 0x8c => 1,
                        b'T' | b'X' => 4,
                        _ => 8,
                    })?;
                    let text = std::str::from_utf8(self.take(length)?);
                    self.stack.push(text.map_or(Value::Opaque, Value::Text));
                }
                opcode @ (b'C' | b'B' | 0x8e | 0x96) => {
                    let length = self.number(match opcode {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    self.take(length)?;
                    self.stack.push(Value::Opaque);
                }
                b')' => self.tuple(vec![]),
                opcode @ (0x85..=0x87) => {
                    let first = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                    let items = first.map(|first| self.stack.split_off(first));
                    self.tuple(items.ok_or("takes from an empty stack")?);
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.tuple(items);
                }
                b'}' => self.dict(vec![]),
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.dict(pairs(&items));
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(&[key, value]);
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.insert(&items);
                }
                b'a' => {
                    self.pop()?;
                }
                b'e' | 0x90 => {
                    self.pop_to_mark()?;
                }
                b'l' | 0x91 | b'o' => {
                    self.pop_to_mark()?;
                    self.stack.push(Value::Opaque);
                }
                b'i' => {
                    self.line()?;
                    self.line()?;
                    self.pop_to_mark()?;
                    self.stack.push(Value::Opaque);
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(module, name));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    self.stack.push(match (module, name) {
                        (Value::Text(module), Value::Text(name)) => Value::Global(module, name),
                        _ => Value::Opaque,
                    });
                }
                b'R' | 0x81 => {
                    let (arguments, callee) = (self.pop()?, self.pop()?);
                    let result = self.call(callee, arguments)?;
                    self.stack.push(result);
                }
                0x92 => {
                    self.pop()?;
                    let (arguments, callee) = (self.pop()?, self.pop()?);
                    let result = self.call(callee, arguments)?;
                    self.stack.push(result);
                }
                // The state of an object: of an ordered dictionary, its attributes.
                b'b' => {
                    self.pop()?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.stack.push(storage);
                }
                b'g' => {
                    let slot = self.line()?.parse().map_err(|_| "recalls no number")?;
                    self.recall(slot)?;
                }
                b'h' => {
                    let slot = self.number(1)?;
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.number(4)?;
                    self.recall(slot)?;
                }
                b'p' => {
                    let slot = self.line()?.parse().map_err(|_| "remembers no number")?;
                    self.remember(slot)?;
                }
                b'q' => {
                    let slot = self.number(1)?;
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.number(4)?;
                    self.remember(slot)?;
                }
                0x94 => {
                    let slot = self.memo.len() as u64;
                    self.remember(slot)?;
                }
                0x80 => {
                    self.take(1)?;
                }
                0x95 => {
                    self.take(8)?;
                }
                other => return Err(format!("has an opcode 0x{other:02x} that is not read")),
            }
        }
    }

    /// The few calls by which PyTorch rebuilds tensors, interpreted; the result of any other is opaque.
    fn call(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, String> {
        let (Value::Global(module, name), Value::Tuple(arguments)) = (callee, arguments) else {
            return Ok(Value::Opaque);
        };
        let arguments = &self.tuples[arguments];
        match (module, name) {
            ("collections", "OrderedDict") => {
                self.dict(vec![]);
                self.pop()
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                let [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(stride),
                    ..,
                ] = arguments[..]
                else {
                    return Err("rebuilds a tensor from something else".into());
                };
                let (dtype, name) = self.storages[storage];
                let sizes = |tuple: usize| -> Option<Vec<usize>> {
                    self.tuples[tuple]
                        .iter()
                        .map(|value| match value {
                            Value::Int(size) => usize::try_from(*size).ok(),
                            _ => None,
                        })
                        .collect()
                };
                let described = Described {
                    dtype,
                    storage: name.to_owned(),
                    offset: usize::try_from(offset)
                        .map_err(|_| "has a tensor before its storage")?,
                    shape: sizes(shape).ok_or("has a tensor whose shape is no numbers")?,
                    stride: sizes(stride).ok_or("has a tensor whose strides are no numbers")?,
                };
                self.tensors.push(described);
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Ok(arguments.first().copied().unwrap_or(Value::Opaque))
            }
            _ => Ok(Value::Opaque),
        }
    }

    /// `('storage', torch.FloatStorage, '0', 'cpu', 9216)`
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>, String> {
        let items = match id {
            Value::Tuple(tuple) => self.tuples[tuple].as_slice(),
            _ => &[],
        };
        let [
            Value::Text("storage"),
            Value::Global(_, class),
            Value::Text(name),
            ..,
        ] = items
        else {
            return Err("refers to something outside of it that is no storage".into());
        };
        let dtype = match *class {
            "FloatStorage" => StoredType::F32,
            "HalfStorage" => StoredType::F16,
            "BFloat16Storage" => StoredType::BF16,
            "DoubleStorage" => StoredType::F64,
            "LongStorage" => StoredType::Other("int64"),
            "IntStorage" => StoredType::Other("int32"),
            "ShortStorage" | "CharStorage" => StoredType::Other("short integer"),
            "ByteStorage" => StoredType::Other("unsigned integer"),
            "BoolStorage" => StoredType::Other("bool"),
            _ => StoredType::Other("of an unknown type"),
        };
        self.storages.push((dtype, name));
        Ok(Value::Storage(self.storages.len() - 1))
    }

    fn collect(
        &self,
        value: Value<'a>,
        name: &str,
        depth: usize,
        looked: &mut usize,
        found: &mut Vec<(String, Described)>,
    ) -> Result<(), String> {
        *looked += 1;
        if *looked > MAX_ENTRIES {
            return Err("holds more than a million entries".into());
        }
        match value {
            Value::Tensor(tensor) => found.push((name.to_owned(), self.tensors[tensor].clone())),
            Value::Dict(dict) if depth < MAX_DEPTH => {
                for (key, value) in &self.dicts[dict] {
                    let key = match key {
                        Value::Text(key) => (*key).to_owned(),
                        Value::Int(key) => key.to_string(),
                        _ => continue,
                    };
                    let inner = if name.is_empty() {
                        key
                    } else {
                        format!("{name}.{key}")
                    };
                    self.collect(*value, &inner, depth + 1, looked, found)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("ends early")?;
        self.at += taken.len();
        Ok(taken)
    }

    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn int(&mut self, bytes: u64) -> Result<(), String> {
        let number = self.number(bytes)?;
        self.stack.push(Value::Int(number as i64));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or("ends within a line")?;
        self.at += end + 1;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "has a line that is no text")?;
        Ok(line.trim_end_matches('\r'))
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        Ok(self.stack.pop().ok_or("takes from an empty stack")?)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("lacks a mark")?;
        if mark > self.stack.len() {
            return Err("takes from below a mark".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn dict(&mut self, entries: Vec<(Value<'a>, Value<'a>)>) {
        self.dicts.push(entries);
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn insert(&mut self, items: &[Value<'a>]) {
        if let Some(Value::Dict(dict)) = self.stack.last() {
            self.dicts[*dict].extend(pairs(items));
        }
    }

    fn remember(&mut self, slot: u64) -> Result<(), String> {
        let top = *self.stack.last().ok_or("remembers nothing")?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<(), String> {
        let value = *self.memo.get(&slot).ok_or("recalls what it never saw")?;
        self.stack.push(value);
        Ok(())
    }
}

fn pairs<'a>(items: &[Value<'a>]) -> Vec<(Value<'a>, Value<'a>)> {
    let (pairs, _) = items.as_chunks::<2>();
    pairs.iter().map(|&[key, value]| (key, value)).collect()
}

/// A little-endian number of two's complement, as far as it fits.
fn long(bytes: &[u8]) -> Value<'static> {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `{Class: None, 'state_dict': OrderedDict(w=<a 2×3 tensor>)}` in protocol 2, as PyTorch writes it.
    const LIGHTNING: &[u8] = b"\x80\x02}(clightning\nModelCheckpoint\nNX\x0a\x00\x00\x00state_dictccollections\nOrderedDict\n)R\
        X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nHalfStorage\n\
        X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x02K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR\
        s}X\x09\x00\x00\x00_metadataNsbu.";

    #[test]
    fn a_class_may_be_a_key() {
        let found = tensors(LIGHTNING).unwrap();
        let described = Described {
            dtype: StoredType::F16,
            storage: "0".into(),
            offset: 2,
            shape: vec![2, 3],
            stride: vec![3, 1],
        };
        assert_eq!(found, [("state_dict.w".to_string(), described)]);
    }

    #[test]
    fn a_lightning_checkpoint_is_read_whole() {
        use super::super::TensorFile;
        use std::io::Write;
        use zip::write::SimpleFileOptions;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.ckpt");
        let write = |data: &[u8]| {
            let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
            let stored =
                SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            for (name, bytes) in [("model/data.pkl", LIGHTNING), ("model/data/0", data)] {
                archive.start_file(name, stored).unwrap();
                archive.write_all(bytes).unwrap();
            }
            archive.finish().unwrap();
        };
        let data: Vec<u8> = (0..8)
            .flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes())
            .collect();
        write(&data);
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["w"]);
        assert_eq!(file.shape("w"), Some([2, 3].as_slice()));
        assert_eq!(file.read_f32("w").unwrap(), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);

        write(&data[..14]);
        let error = TensorFile::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("`w`") && error.contains("model.ckpt"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn garbled_pickles_are_errors_or_tensors(
            places in prop::collection::vec((0..LIGHTNING.len(), any::<u8>()), 0..6),
            end in 0..=LIGHTNING.len(),
        ) {
            let mut bytes = LIGHTNING.to_vec();
            for (place, byte) in places {
                bytes[place] = byte;
            }
            bytes.truncate(end);
            let _ = tensors(&bytes);
        }

        #[test]
        fn any_bytes_are_errors_or_tensors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = tensors(&bytes);
        }
    }
}
