"""Files in other places: data sets on the Hugging Face hub (hf://) and objects of an S3 store (s3://)."""
