-- Who we say we are when we ask an application entity for an association: a name, with a passcode or without; or, without a name, a token.
ALTER TABLE modality
    ADD COLUMN username text,
    ADD COLUMN secret text;     -- passcode or token, encrypted where there is a key
