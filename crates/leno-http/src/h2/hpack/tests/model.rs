//! The decoder against one that keeps a list of pairs, and against bytes that nobody meant.

use super::*;

/// The table as RFC 7541 section 2.3 tells it.
#[derive(Default)]
struct Model {
    /// The newest first.
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    limit: usize,
}

impl Model {
    fn evict(&mut self) {
        while self.entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > self.limit {
            self.entries.pop();
        }
    }

    fn get(&self, index: usize) -> (Vec<u8>, Vec<u8>) {
        match FIXED.get(index - 1) {
            Some(field) => (field.text.to_vec(), field.value.to_vec()),
            None => self.entries[index - 62].clone(),
        }
    }

    fn insert(&mut self, field: (Vec<u8>, Vec<u8>)) {
        self.entries.insert(0, field);
        self.evict();
    }
}

/// What a field is, byte by byte.
fn verdict(name: &[u8], value: &[u8]) -> Name {
    let is_tchar = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(b);
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Name::Malformed;
    }
    if let Some(field) = FIXED.iter().find(|field| field.text == name) {
        return field.name;
    }
    match name {
        [] => Name::Malformed,
        [b':', ..] => Name::OtherPseudo,
        _ if name.iter().all(is_tchar) => Name::Regular(Known::of(name)),
        _ => Name::Malformed,
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A reference to an entry, as many as there are modulo.
    Whole(usize),
    /// A new value for the name of an entry.
    Value {
        name: usize,
        value: Vec<u8>,
        form: u8,
        is_coded: bool,
    },
    Both {
        name: Vec<u8>,
        value: Vec<u8>,
        form: u8,
        is_coded: bool,
    },
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        10 => "[ -~]{0,60}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..20),
        1 => "[a-z]{100,500}".prop_map(String::into_bytes),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let name = prop_oneof![
        10 => "[a-z-]{1,30}".prop_map(String::into_bytes),
        1 => "(te|host|grpc-timeout|leno-x|:path|:protocols)".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    // With a place in the table, which is what the model is for, mostly.
    let form = || prop_oneof![6 => Just(0x40_u8), 1 => Just(0x00), 1 => Just(0x10)];
    prop_oneof![
        any::<usize>().prop_map(Step::Whole),
        (any::<usize>(), value(), form(), any::<bool>()).prop_map(|(name, value, form, is_coded)| Step::Value {
            name,
            value,
            form,
            is_coded
        }),
        (name, value(), form(), any::<bool>()).prop_map(|(name, value, form, is_coded)| Step::Both {
            name,
            value,
            form,
            is_coded
        }),
    ]
}

/// Writes a step, does it to the model, and tells what field it says.
fn write(step: Step, model: &mut Model, block: &mut Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    // Mostly the table itself, and its oldest as well as its newest.
    let index = |n: usize| match model.entries.len() {
        0 => n % 61 + 1,
        _ if n.is_multiple_of(4) => n / 4 % 61 + 1,
        count => 62 + n / 4 % count,
    };
    let (name, value, form, is_coded) = match step {
        Step::Whole(n) => {
            put_integer(block, 0x80, 0x7f, index(n));
            return model.get(index(n));
        }
        Step::Value { name, value, form, is_coded } => {
            put_integer(block, form, if form == 0x40 { 0x3f } else { 0x0f }, index(name));
            (model.get(index(name)).0, value, form, is_coded)
        }
        Step::Both { name, value, form, is_coded } => {
            block.push(form);
            block.extend(string(&name, is_coded));
            (name, value, form, is_coded)
        }
    };
    block.extend(string(&value, is_coded));
    if form == 0x40 {
        model.insert((name.clone(), value.clone()));
    }
    (name, value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn tables_stay_in_step(
        max in prop_oneof![Just(4096_usize), 0..600_usize],
        blocks in prop::collection::vec(
            (prop::collection::vec(any::<prop::sample::Index>(), 0..3), prop::collection::vec(step(), 0..30)), 0..12),
    ) {
        let mut decoder = Decoder::new(max);
        let mut model = Model { limit: max, ..Model::default() };
        for (updates, steps) in blocks {
            let mut block = Vec::new();
            // Not before every block: the table is to fill.
            for update in updates.into_iter().filter(|update| update.index(3) == 0) {
                model.limit = update.index(max + 1);
                model.evict();
                put_integer(&mut block, 0x20, 0x1f, model.limit);
            }
            let mut expected = Vec::new();
            for step in steps {
                let (name, value) = write(step, &mut model, &mut block);
                expected.push((verdict(&name, &value), name, value));
            }
            prop_assert_eq!(decode(&mut decoder, &block).unwrap(), expected);
            for (n, (name, value)) in model.entries.iter().enumerate() {
                let field = Field { name: verdict(name, value), text: name, value };
                prop_assert_eq!(decoder.table.get(n), Some(field));
            }
            prop_assert_eq!(decoder.table.get(model.entries.len()), None);
            let bound = (2 * max + 256) + (max / 32).next_power_of_two().max(4) * 2 * 16;
            prop_assert!(decoder.heap() <= bound, "{} bytes for a table of {max}", decoder.heap());
        }
    }

    #[test]
    fn nobody_meant_these_bytes(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..10)) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            // After an error the connection ends; that the decoder goes on here only makes more states.
            if let Ok(fields) = decode(&mut decoder, &block) {
                prop_assert!(fields.len() <= block.len());
            }
            prop_assert!(decoder.heap() <= 8192 + 256 * 16);
        }
    }

    #[test]
    fn nearly_meant(steps in prop::collection::vec(step(), 1..20), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut block = Vec::new();
        let mut model = Model { limit: 4096, ..Model::default() };
        for step in steps {
            write(step, &mut model, &mut block);
        }
        for (at, byte) in changes {
            let at = at.index(block.len());
            block[at] = byte;
        }
        let mut decoder = Decoder::new(4096);
        if let Ok(fields) = decode(&mut decoder, &block) {
            for (name, text, value) in fields {
                prop_assert_eq!(name, verdict(&text, &value));
            }
        }
        prop_assert!(decoder.heap() <= 8192 + 256 * 16);
    }
}
