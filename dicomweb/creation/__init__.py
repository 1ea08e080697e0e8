"""New instances from attributes, pictures and documents, as `POST /tools/create-dicom` of Orthanc asks for them."""
